"""What a medium (a USB stick, say) carries beside a bundle, for devices that are never online.

The approval is the same as online: root, targets and the line's role. What the online snapshot and
timestamp do for days, two offline roles do for a year; their keys are named by the targets role.
Which devices the medium is for stands in a document of its own, with a sequence of its own.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import decode_json, encode_json
from edge_contract.digest import check_digest
from edge_contract.errors import ContractError
from edge_contract.health import HealthSpec
from edge_contract.metadata import METADATA_FILE_LIMIT_BYTES
from edge_contract.model import LineName
from edge_contract.profile import ProfileId

MEDIA_FILE = "media.json"
MEDIA_ORDER_TYPE = "application/vnd.wherry.media+json"
DEVICES_MAX = 500
"""Keeps the order below the limit of a signed document; a larger set takes several orders."""


class MediaDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device of the set. ``device_key``: the fingerprint of its key."""

    device: str
    device_key: str
    hardware: ProfileId


class MediaOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What the devices of the set are ordered to run. Times are unix seconds.

    sequence: strictly growing per line over all media of the fleet; a device refuses one that it
        has passed. It is apart from ``Desired.seq``, because media are late.
    timestamp_version_min: oldest offline timestamp that may come with this order.
    """

    schema: Literal[1] = 1
    fleet: str
    line: LineName
    epoch: int
    sequence: int
    issued_at: float
    expires: float
    timestamp_version_min: int
    version: str
    manifest_digest: str
    rollout: str
    devices: list[MediaDevice]
    health: HealthSpec = HealthSpec()


class MediaSet(msgspec.Struct, frozen=True, kw_only=True):
    """``media.json``: the TUF files for one line, and the order as a DSSE envelope."""

    schema: Literal[1] = 1
    line: LineName
    roots: list[bytes]
    offline_timestamp: bytes
    offline_snapshot: bytes
    targets: bytes
    line_role: bytes
    directors: bytes
    order: bytes


def encode_media_set(value: MediaSet) -> bytes:
    """Canonical JSON bytes."""
    return encode_json(value)


def decode_media_set(data: bytes, *, where: str) -> MediaSet:
    """Parse ``media.json``.

    Raises:
        ContractError: too long or malformed.
    """
    return decode_json(data, MediaSet, what=where, limit_bytes=METADATA_FILE_LIMIT_BYTES)


def decode_media_order(payload: bytes) -> MediaOrder:
    """Parse the payload of a verified media order.

    Raises:
        ContractError: malformed, or for more than ``DEVICES_MAX`` devices.
    """
    order = decode_json(payload, MediaOrder, what="media order")
    check_digest(order.manifest_digest, where="media order.manifest_digest")
    if not 0 < len(order.devices) <= DEVICES_MAX:
        raise ContractError(
            f"media order: expected 1 to {DEVICES_MAX} devices, got {len(order.devices)}"
        )
    return order
