"""Whether the device takes a configuration on: the rules of an order, with a sequence of its own.

What was accepted last is kept durably, with its number, before it is applied; so an older one can
never come back, and a restart finds the newest.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.order import (
    DeviceFacts,
    check_addressee,
    require_epoch,
    require_in_force,
)
from edge_contract.codec import decode_json, encode_json
from edge_contract.configuration import (
    CONFIGURATION_LIMIT_BYTES,
    CONFIGURATION_TYPE,
    SETTINGS,
    Value,
    decode_configuration,
)
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import write_durably
from edge_contract.signing import raw_public_key, verify_document


class KeptConfiguration(msgspec.Struct, frozen=True):
    """The configuration that was accepted last.

    document: SHA-256 (hex) of the envelope's bytes.
    """

    epoch: int
    seq: int
    document: str
    settings: Mapping[str, Value]


def accept_configuration(
    envelope: bytes,
    approved: ApprovedLine,
    facts: DeviceFacts,
    last: KeptConfiguration | None,
) -> KeptConfiguration:
    """Check one configuration envelope. Pure.

    Args:
        envelope: the retained payload, as it came on ``desired/config``.
        approved: the verified metadata of the device's line.
        facts: this device.
        last: what was accepted last; None before the first.

    Returns:
        what to keep and to apply; ``last`` itself where it is the very document accepted before.

    Raises:
        ContractError: malformed, too large, an unknown setting, a value out of its bounds.
        TrustError: refused; the message says why. Nothing of it counts, its number neither.
    """
    if len(envelope) > CONFIGURATION_LIMIT_BYTES:
        raise ContractError(
            f"configuration: {len(envelope)} bytes, at most {CONFIGURATION_LIMIT_BYTES} accepted"
        )
    document = hashlib.sha256(envelope).hexdigest()
    if last is not None and last.document == document:
        return last
    keys = [raw_public_key(key.public, where="director") for key in approved.directors.keys]
    payload, signer = verify_document(envelope, CONFIGURATION_TYPE, keys, what="configuration")
    found = decode_configuration(payload)
    require_in_force(signer, approved, facts, issued_at=found.issued_at, expires=found.expires)
    check_addressee(found, facts)
    require_epoch(found.epoch, approved)
    if last is not None and (found.epoch, found.seq) <= (last.epoch, last.seq):
        raise TrustError(
            f"configuration: replay: expected one after epoch {last.epoch} seq {last.seq}, got"
            f" epoch {found.epoch} seq {found.seq}"
        )
    return KeptConfiguration(found.epoch, found.seq, document, found.settings)


class _File(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    epoch: int
    seq: int
    document: str
    settings: dict[str, Value]


def load_configuration(path: Path) -> KeptConfiguration | None:
    """What was kept; None if there is no file.

    A setting that this release does not know, or not with this value, is left out: the agent may
    have gone back to an older release.

    Raises:
        DamagedTrustError: the file is damaged. Starting anew would let an old one count again.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, f"cannot read {path}: {error.strerror}") from error
    try:
        kept = decode_json(data, _File, what=str(path))
    except ContractError as error:
        raise _damaged(path, error.message) from error
    known = {
        name: value
        for name, value in kept.settings.items()
        if name in SETTINGS and SETTINGS[name].holds(value)
    }
    return KeptConfiguration(kept.epoch, kept.seq, kept.document, known)


def save_configuration(path: Path, kept: KeptConfiguration) -> None:
    """Keep it; durable when this returns."""
    file = _File(
        epoch=kept.epoch, seq=kept.seq, document=kept.document, settings=dict(kept.settings)
    )
    write_durably(path, encode_json(file))


def _damaged(path: Path, message: str) -> DamagedTrustError:
    return DamagedTrustError(
        f"{message}; the device's own settings hold, and none of the fleet's is taken",
        hint=f"if the disk was damaged and the device is yours, remove {path}",
    )
