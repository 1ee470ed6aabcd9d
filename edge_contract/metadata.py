"""All TUF metadata that a device of one model line needs, as one atomic document.

Retained on ``_fleet/metadata/{line}`` and written beside a bundle for installs without a fleet.
One document, because separately retained files arrive in any order and mixed versions would have
to be told from an attack. Every part is checked by TUF's own rules; the envelope adds no trust.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import MESSAGE_LIMIT_BYTES, decode_json, encode_json
from edge_contract.errors import ContractError
from edge_contract.model import LineName

MIN_RELEASE_FIELD = "x-wherry-min-release"
"""Signed field of a line's role: the oldest version that may be installed anew."""
VERSION_CHARS_MAX = 128
"""Python turns no more than 4,300 digits into a number."""
OFFLINE_SNAPSHOT = "offline-snapshot"
OFFLINE_TIMESTAMP = "offline-timestamp"
"""Delegated roles without paths: their keys sign the long-lived metadata of offline media."""
OFFLINE_ROLES = (OFFLINE_SNAPSHOT, OFFLINE_TIMESTAMP)


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


def version_order(version: str) -> tuple[list[int], bool, list[tuple[bool, int, str]]]:
    """Semantic Versioning's precedence (semver.org, 11) as a sort key.

    Raises:
        ContractError: not a semantic version.
    """
    core, _, pre = version.partition("+")[0].partition("-")
    parts = core.split(".")
    if (
        len(version) > VERSION_CHARS_MAX
        or not version.isascii()
        or len(parts) != 3
        or not all(part.isdigit() for part in parts)
    ):
        raise ContractError(f"expected a version like 1.2.3 or 1.2.3-rc.1, got {version[:80]!r}")
    identifiers = [
        (not part.isdigit(), int(part) if part.isdigit() else 0, part)
        for part in pre.split(".")
        if part
    ]
    return [int(part) for part in parts], not pre, identifiers


def encode_metadata_set(value: MetadataSet) -> bytes:
    """Canonical JSON bytes."""
    return encode_json(value)


def decode_metadata_set(data: bytes, *, where: str) -> MetadataSet:
    """Parse a metadata set.

    Raises:
        ContractError: too long or malformed.
    """
    return decode_json(data, MetadataSet, what=where, limit_bytes=MESSAGE_LIMIT_BYTES)
