"""All TUF metadata that a device of one model line needs, as one atomic document.

Retained on ``_fleet/metadata/{line}`` and written beside a bundle for installs without a fleet.
One document, because separately retained files arrive in any order and mixed versions would have
to be told from an attack. Every part is checked by TUF's own rules; the envelope adds no trust.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import MESSAGE_LIMIT_BYTES, decode_json, encode_json
from edge_contract.model import LineName


class MetadataSet(msgspec.Struct, frozen=True, kw_only=True):
    """Raw TUF files, base64 in JSON.

    roots: versions 1, 2, … in order; a device skips those that it has already verified.
    line_role: the delegated targets role of the line; its targets are bundle manifests named
        ``{line}/{version}``.
    directors: the bytes of the target ``directors.json`` of the top-level targets role.
    """

    schema: Literal[1] = 1
    line: LineName
    roots: list[bytes]
    timestamp: bytes
    snapshot: bytes
    targets: bytes
    line_role: bytes
    directors: bytes


def target_path(line: str, version: str) -> str:
    """The TUF target path of a bundle's manifest."""
    return f"{line}/{version}"


def encode_metadata_set(value: MetadataSet) -> bytes:
    """Canonical JSON bytes."""
    return encode_json(value)


def decode_metadata_set(data: bytes, *, where: str) -> MetadataSet:
    """Parse a metadata set.

    Raises:
        ContractError: too long or malformed.
    """
    return decode_json(data, MetadataSet, what=where, limit_bytes=MESSAGE_LIMIT_BYTES)
