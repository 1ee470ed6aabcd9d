"""What the director orders one device to run, and which director keys may order it.

A device installs only what both name: the image repository (TUF, a threshold of offline keys)
and a ``Desired`` signed by a key of the ``Directors`` list, which is itself a TUF target.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import decode_json
from edge_contract.digest import check_digest
from edge_contract.errors import ContractError
from edge_contract.health import HealthSpec
from edge_contract.model import LineName
from edge_contract.profile import ProfileId
from edge_contract.signing import raw_public_key
from edge_contract.window import check_window

DESIRED_TYPE = "application/vnd.wherry.desired+json"
DIRECTORS_TARGET = "directors.json"


class Desired(msgspec.Struct, frozen=True, kw_only=True):
    """The order for one device. Times are unix seconds of the manager's clock.

    seq: strictly growing per device within an epoch; a device refuses one that does not grow.
    timestamp_version_min: oldest TUF timestamp that the device may use with this order.
    deadline_ts: the whole update must have ended by then (0: no deadline but the device's own).
    window: ``HH:MM-HH:MM`` in UTC in which it may be installed ("" for always).
    """

    schema: Literal[1] = 1
    fleet: str
    device: str
    device_key: str
    """Fingerprint of the device's key: an order does not move to a replaced device."""
    epoch: int
    seq: int
    issued_at: float
    expires: float
    timestamp_version_min: int
    line: LineName
    version: str
    hardware: ProfileId
    manifest_digest: str
    rollout: str
    deadline_ts: float = 0.0
    health: HealthSpec = HealthSpec()
    window: str = ""

    def __post_init__(self) -> None:
        check_window(self.window, what="desired.window")


class DirectorKey(msgspec.Struct, frozen=True, kw_only=True):
    """One director key: its raw public key (hex), where it may order, until when (unix s)."""

    public: str
    fleets: list[str]
    lines: list[str]
    expires: float


class Directors(msgspec.Struct, frozen=True, kw_only=True):
    """The TUF target ``directors.json``: who may sign ``Desired`` documents and acks.

    epoch: the only epoch in which orders count. It is raised here, by offline signatures, and a
        higher one lets ``seq`` begin again: the last resort where numbers were lost or burnt.
    audit_keys: raw public keys (hex) that ever signed entries of the fleet's audit log.
    """

    schema: Literal[1] = 1
    epoch: int = 1
    keys: list[DirectorKey]
    audit_keys: list[str] = []

    def trusted(self, fleet: str, line: str, now_s: float) -> list[bytes]:
        """Raw public keys that may order for this fleet and line at ``now_s``."""
        return [
            bytes.fromhex(key.public)
            for key in self.keys
            if fleet in key.fleets
            and ("*" in key.lines or line in key.lines)
            and now_s < key.expires
        ]


def decode_desired(payload: bytes) -> Desired:
    """Parse the payload of a verified ``desired`` envelope.

    Raises:
        ContractError: malformed.
    """
    desired = decode_json(payload, Desired, what="desired document")
    check_digest(desired.manifest_digest, where="desired.manifest_digest")
    return desired


def decode_directors(data: bytes) -> Directors:
    """Parse ``directors.json``.

    Raises:
        ContractError: malformed, or a key that is not 32 bytes of hex.
    """
    directors = decode_json(data, Directors, what=DIRECTORS_TARGET)
    for public in (*(key.public for key in directors.keys), *directors.audit_keys):
        raw_public_key(public, where=DIRECTORS_TARGET)
    if directors.epoch < 1:
        raise ContractError(f"{DIRECTORS_TARGET}: expected an epoch of 1 or more")
    return directors
