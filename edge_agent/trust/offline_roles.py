"""The TUF files of an offline medium, checked: root, targets, offline snapshot and timestamp, line.

The order differs from the online one, because the keys of the two offline roles stand in the
targets role: the targets are verified by the root first, the offline snapshot must then name
exactly these targets and this line, and the offline timestamp exactly this snapshot. So nothing
can be mixed, nothing goes back behind what the device has seen (online or offline), and nothing
counts beyond its expiry. All of it is pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import TypeVar

import msgspec
from tuf.api import exceptions
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_agent.trust.decision_core import EnvelopeType, TrustedMetadataSet
from edge_contract.media import MediaSet
from edge_contract.metadata import OFFLINE_SNAPSHOT, OFFLINE_TIMESTAMP

S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


class OfflineEdition(msgspec.Struct, frozen=True):
    """The verified files of one medium."""

    root: Root
    root_bytes: bytes
    timestamp: Timestamp
    snapshot: Snapshot
    targets: Targets
    line_role: Targets

    @property
    def expires_s(self) -> float:
        """The earliest expiry (unix s) of all."""
        roles = (self.root, self.timestamp, self.snapshot, self.targets, self.line_role)
        return min(role.expires for role in roles).timestamp()

    def versions(self, role: str) -> dict[str, int]:
        """The versions that no later medium and no later metadata may go behind."""
        return {
            OFFLINE_TIMESTAMP: self.timestamp.version,
            OFFLINE_SNAPSHOT: self.snapshot.version,
            Targets.type: self.targets.version,
            role: self.line_role.version,
        }


def verify_offline(
    media: MediaSet, root: bytes, role: str, versions: Mapping[str, int], reference_s: float
) -> OfflineEdition:
    """Check the TUF files of a medium.

    Args:
        media: as it was read.
        root: the root that the device trusts.
        role: the role of the device's line.
        versions: the versions seen so far, by role.
        reference_s: the time to check expiry against.

    Raises:
        RepositoryError: refused, in python-tuf's words.
    """
    trusted = TrustedMetadataSet(root, EnvelopeType.METADATA)
    for data in media.roots:
        if Metadata[Root].from_bytes(data).signed.version > trusted.root.version:
            trusted.update_root(data)
            root = data
    now = datetime.fromtimestamp(reference_s, timezone.utc)

    targets = read_role(Targets, media.targets)
    trusted.root.verify_delegate(Targets.type, targets.signed_bytes, targets.signatures)
    named = targets.signed.delegations
    if named is None or not {OFFLINE_TIMESTAMP, OFFLINE_SNAPSHOT, role} <= set(named.roles or {}):
        raise exceptions.RepositoryError("the targets role names no keys for offline media")

    snapshot = read_role(Snapshot, media.offline_snapshot)
    targets.signed.verify_delegate(OFFLINE_SNAPSHOT, snapshot.signed_bytes, snapshot.signatures)
    timestamp = read_role(Timestamp, media.offline_timestamp)
    targets.signed.verify_delegate(OFFLINE_TIMESTAMP, timestamp.signed_bytes, timestamp.signatures)
    line_role = read_role(Targets, media.line_role)
    targets.signed.verify_delegate(role, line_role.signed_bytes, line_role.signatures)

    _require_version(OFFLINE_SNAPSHOT, snapshot.signed.version, timestamp.signed.snapshot_meta)
    for name, data in ((Targets.type, media.targets), (role, media.line_role)):
        meta = snapshot.signed.meta.get(f"{name}.json")
        if meta is None:
            raise exceptions.RepositoryError(f"the offline snapshot does not name {name}")
        meta.verify_length_and_hashes(data)
        version = (targets if name == Targets.type else line_role).signed.version
        _require_version(name, version, meta)

    edition = OfflineEdition(
        trusted.root, root, timestamp.signed, snapshot.signed, targets.signed, line_role.signed
    )
    for name, version in edition.versions(role).items():
        if version < versions.get(name, 0):
            raise exceptions.BadVersionNumberError(
                f"{name} version {version} is older than {versions[name]}, which was seen before"
            )
    for signed in (edition.root, edition.timestamp, edition.snapshot, targets.signed):
        if signed.is_expired(now):
            raise exceptions.ExpiredMetadataError(f"{signed.type} is expired")
    if line_role.signed.is_expired(now):
        raise exceptions.ExpiredMetadataError(f"{role} is expired")
    return edition


def read_role(kind: type[S], data: bytes) -> Metadata[S]:
    """Metadata of one kind; python-tuf takes whatever kind the bytes say.

    Raises:
        RepositoryError: malformed, or of another kind. Nothing is verified.
    """
    found = Metadata[S].from_bytes(data)
    if not isinstance(found.signed, kind):
        raise exceptions.RepositoryError(f"expected {kind.type}, got {found.signed.type}")
    return found


def _require_version(role: str, version: int, meta: MetaFile) -> None:
    if version != meta.version:
        raise exceptions.BadVersionNumberError(
            f"{role} version {version} is not the {meta.version} that was signed for"
        )
