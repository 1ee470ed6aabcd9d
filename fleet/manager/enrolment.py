"""Enrolment: the first key that a device id announces is pinned; another one is refused.

Without a CA whoever comes first gets the name; that protects a device that was seen once, not an
id that was never used. As soon as the fleet has a CA, a new name needs a one-time code
(``fleet.identity.desk``), and an announcement only says that a pinned key is there.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
from msgspec.structs import replace

from edge_contract.errors import ContractError
from edge_contract.messages import Enrol
from edge_contract.model import LineName
from edge_contract.profile import ProfileId
from edge_contract.signing import verify_message
from fleet.manager.connection import Inbound
from fleet.store.devices import DeviceRow

AGENT_VERSION_CHARS = 64


@dataclass(frozen=True)
class Enrolment:
    """The answer to one announcement. ``row`` is None when it was refused, for ``reason``.

    renew: the device should ask for a new certificate.
    """

    device: str
    row: DeviceRow | None
    reason: str = ""
    renew: bool = False


def enrol(
    row: DeviceRow | None,
    device: str,
    asked: Enrol,
    message: Inbound,
    *,
    now_s: float,
    strict: bool = False,
) -> Enrolment:
    """Decide on one announcement.

    Args:
        row: what is stored for the device, None when nothing is.
        device: the id in the topic.
        asked: the announcement.
        message: the message that it came in.
        strict: a new name needs a code.

    Raises:
        ContractError: malformed.
        TrustError: not signed by the key that it announces.
    """
    public = _check(device, asked, message.topic)
    verify_message(public, message.topic, message.payload, message.signature)
    if row is None and strict:
        return Enrolment(device, None, "this fleet has a CA: enrol it with a one-time code first")
    if row is None:
        fresh = DeviceRow(
            device=device,
            public_key=asked.public,
            hardware=asked.hardware,
            line=asked.line,
            agent_version=asked.agent_version,
            enrolled_at_s=now_s,
            last_seen_at_s=now_s,
        )
        return Enrolment(device, fresh)
    if row.public_key != asked.public:
        return Enrolment(
            device,
            None,
            "another key is pinned for this name. A second device needs a name of its own ([device]"
            " id in its configuration); new hardware under the old name needs, at the fleet:"
            f" edge-fleet devices replace {device}",
        )
    same = replace(row, hardware=asked.hardware, line=asked.line, agent_version=asked.agent_version)
    return Enrolment(device, same)


def _check(device: str, asked: Enrol, where: str) -> bytes:
    if asked.device != device:
        raise ContractError(f"{where}: the payload announces {asked.device[:80]!r}")
    try:
        msgspec.convert(asked.line, LineName)
        msgspec.convert(asked.hardware, ProfileId)
        public = bytes.fromhex(asked.public)
    except (msgspec.ValidationError, ValueError) as error:
        raise ContractError(f"{where}: line, hardware or public key: {error}") from error
    if len(public) != 32 or asked.public != public.hex():
        raise ContractError(f"{where}: expected a public key of 64 lower-case hex digits")
    version = asked.agent_version
    if len(version) > AGENT_VERSION_CHARS or not version.isprintable():
        raise ContractError(f"{where}: expected an agent_version of at most 64 characters")
    return public
