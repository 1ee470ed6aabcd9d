"""All TUF metadata that a device of one model line needs, as one atomic document.

Retained on ``_fleet/metadata/{line}`` and written beside a bundle for installs without a fleet.
One document, because separately retained files arrive in any order and mixed versions would have
to be told from an attack. Roots are the exception: their order is in them, so over MQTT each is a
message of its own and their number has no end. Every part is checked by TUF's own rules; neither
the envelope nor the head adds trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from edge_contract.codec import (
    DOCUMENT_LIMIT_BYTES,
    MESSAGE_LIMIT_BYTES,
    decode_json,
    encode_json,
)
from edge_contract.digest import check_digest, digest_of
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
ROOTS_FILE_BYTES = DOCUMENT_LIMIT_BYTES
"""Of roots in one file, before base64."""
METADATA_FILE_LIMIT_BYTES = 2 * DOCUMENT_LIMIT_BYTES
"""The largest file with roots in it: ``approval.json``, ``media.json``."""


class MetadataSet(msgspec.Struct, frozen=True, kw_only=True):
    """Raw TUF files, base64 in JSON.

    roots: in files, versions up to the newest in order; a device skips those that it has already
        verified. Empty over MQTT, where each is retained on ``_fleet/metadata/root.{N}``.
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


class MetadataHead(msgspec.Struct, frozen=True, kw_only=True):
    """What is retained for a line, so that a device knows whether it lacks any of it. Not signed:
    it can only make a device ask, or not ask.

    root_version: of the newest root.
    digest: ``parts_digest`` of the retained set.
    """

    schema: Literal[1] = 1
    line: LineName
    root_version: int
    digest: str

    def __post_init__(self) -> None:
        check_digest(self.digest, where="head.digest")
        if self.root_version < 1:
            raise ContractError(f"head.root_version: expected 1 or more, got {self.root_version}")


def retained(value: MetadataSet) -> MetadataSet:
    """A set as it is retained: without roots, each of which is retained by itself."""
    return msgspec.structs.replace(value, roots=[])


def parts_digest(value: MetadataSet) -> str:
    """Tells two sets apart by what they hold besides roots, however they are written."""
    parts = (value.timestamp, value.snapshot, value.targets, value.line_role, value.directors)
    return digest_of(encode_json([value.line, *map(digest_of, parts)]))


def newest_roots(roots: Sequence[bytes]) -> list[bytes]:
    """Those of ``roots``, in order, that a file carries: the newest ``ROOTS_FILE_BYTES``."""
    kept = len(roots)
    room = ROOTS_FILE_BYTES
    while kept and len(roots[kept - 1]) <= room:
        kept -= 1
        room -= len(roots[kept])
    return list(roots[kept:])


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


def decode_metadata_set(
    data: bytes, *, where: str, limit_bytes: int = MESSAGE_LIMIT_BYTES
) -> MetadataSet:
    """Parse a metadata set.

    Args:
        data: the raw bytes.
        where: they came from.
        limit_bytes: ``METADATA_FILE_LIMIT_BYTES`` for a file.

    Raises:
        ContractError: too long or malformed.
    """
    return decode_json(data, MetadataSet, what=where, limit_bytes=limit_bytes)


def decode_metadata_head(data: bytes, *, where: str) -> MetadataHead:
    """Parse a head.

    Raises:
        ContractError: malformed.
    """
    return decode_json(data, MetadataHead, what=where)
