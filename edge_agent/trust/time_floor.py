"""The time that expiry is checked against, on a device whose clock may be anything.

The floor moves only on a signed ``issued_at`` that was accepted, or on a signed answer to a
question of the device's own (``accept_time``), never on the local clock: one NTP answer from 2038
would otherwise expire everything, for good. The local clock only counts while something says that
it is synchronised, and what it says is forgotten again.
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import msgspec
from msgspec.structs import replace

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.kept_file import read_kept
from edge_agent.trust.order import DeviceFacts, refused, require_in_force
from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError
from edge_contract.layout import write_durably
from edge_contract.signed_time import TIME_TYPE, decode_time_reply
from edge_contract.signing import raw_public_key, verify_document

_LATEST_S = 253_402_300_799.0
"""The last second of the year 9999, the latest that TUF metadata can name."""


class TimeFloor(msgspec.Struct, frozen=True):
    """The latest time (unix s) that is known, by signature, to have passed. 0: none yet."""

    floor_s: float = 0.0

    def raised_to(self, issued_at: float) -> TimeFloor:
        """The floor after an accepted, signed ``issued_at``; it never goes down."""
        return replace(self, floor_s=max(self.floor_s, min(issued_at, _LATEST_S)))

    def reference_s(self, local_s: float, *, synchronised: bool) -> float:
        """The time to check expiry against, unix seconds.

        Args:
            local_s: the device's wall clock.
            synchronised: whether the system says that this clock was set from the network.
        """
        return max(self.floor_s, min(local_s, _LATEST_S)) if synchronised else self.floor_s


def accept_time(
    envelope: bytes, nonces: Collection[str], approved: ApprovedLine, facts: DeviceFacts
) -> tuple[float, str]:
    """The present (unix s) by a signed answer, and the nonce of the question that it answers.

    An answer that took minutes is as true as a quick one: its time has passed, and the floor says
    no more than that.

    As with an order, neither the director's key nor any of the metadata may have expired at the
    time that it claims: that bounds how far a stolen key can push the floor.

    Args:
        envelope: the payload of ``rsp/time``.
        nonces: of the questions that wait.
        approved: the verified metadata of the device's line.
        facts: this device.

    Raises:
        ContractError: malformed.
        TrustError: refused; the floor stays.
    """
    keys = [raw_public_key(key.public, where="director") for key in approved.directors.keys]
    payload, signer = verify_document(envelope, TIME_TYPE, keys, what="time reply")
    reply = decode_time_reply(payload)
    if reply.nonce not in nonces:
        raise refused("replay: a time reply to a question that this device did not ask")
    if (reply.fleet, reply.device) != (facts.fleet, facts.device):
        raise refused(f"a time reply for {reply.fleet}/{reply.device}")
    require_in_force(signer, approved, facts, issued_at=reply.now, expires=_LATEST_S)
    return reply.now, reply.nonce


class _FloorFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    floor_s: float


def load_floor(path: Path) -> TimeFloor:
    """The floor that was kept; that of a new device if there is no file.

    Raises:
        DamagedTrustError: the file is damaged. Starting again at 0 would let expired metadata in.
    """
    data = read_kept(path)
    if data is None:
        return TimeFloor()
    try:
        floor_s = decode_json(data, _FloorFile, what=str(path)).floor_s
        if not 0 <= floor_s <= _LATEST_S:
            raise ContractError(f"{path}: {floor_s:g} is no time")
        return TimeFloor(floor_s)
    except ContractError as error:
        raise DamagedTrustError(
            f"{error}; new installs stop, what runs keeps running",
            hint=f"if the disk was damaged and the device is yours, remove {path}",
        ) from error


def save_floor(path: Path, floor: TimeFloor) -> None:
    """Keep the floor; durable when this returns."""
    write_durably(path, encode_json(_FloorFile(floor_s=floor.floor_s)))
