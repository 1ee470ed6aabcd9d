"""Signing the next edition of the metadata: changed roles, a snapshot, and last a timestamp."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TypeVar

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import UnsignedMetadataError
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import ExitCode
from edge_contract.metadata import encode_metadata_set
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.keys import DevelopmentKeys
from fleet.repository.role_files import Edition, RoleFiles, check_signed, line_of, to_bytes

_DAY_S = 86_400.0
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


@dataclass(frozen=True)
class Lifetimes:
    """How long a signature lasts, in seconds; each is renewed at half of its life.

    The timestamp's life is the longest that an attacker on the wire can hold a device back
    unnoticed, and the longest that the manager may be away before new installs stop.
    """

    root_s: float = 365 * _DAY_S
    targets_s: float = 365 * _DAY_S
    snapshot_s: float = 30 * _DAY_S
    timestamp_s: float = 7 * _DAY_S
    director_s: float = 365 * _DAY_S

    def of(self, role_type: str) -> float:
        """The life of a type of metadata; model lines live as long as the targets role."""
        return {
            Root.type: self.root_s,
            Targets.type: self.targets_s,
            Snapshot.type: self.snapshot_s,
            Timestamp.type: self.timestamp_s,
        }[role_type]


DEFAULT_LIFETIMES = Lifetimes()


class EditionSigner:
    """Signs and commits metadata. The caller holds the repository's lock.

    Args:
        files: where the signed files go.
        keys: one key a role.
        clock: unix seconds.
        lifetimes: how long signatures last.
    """

    def __init__(
        self,
        files: RoleFiles,
        keys: DevelopmentKeys,
        clock: Callable[[], float],
        lifetimes: Lifetimes,
    ) -> None:
        self._files = files
        self._keys = keys
        self._clock = clock
        self._lifetimes = lifetimes

    def due(self, signed: Root | Timestamp | Snapshot | Targets) -> bool:
        """Whether less than half of its life is left."""
        now = datetime.fromtimestamp(self._clock(), timezone.utc)
        return signed.expires - now < timedelta(seconds=self._lifetimes.of(signed.type) / 2)

    def write_first_root(self) -> None:
        """Version 1 of the root, naming one key each for the four top-level roles."""
        root = Root(version=1, expires=self._expiry(Root.type), consistent_snapshot=True)
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
            root.add_key(ed25519_key(public_bytes(self._keys.load(role))), role)
        self._files.write_role(Root.type, 1, to_bytes(self._sign(Root.type, root, root)))

    def renew_root(self, root: Root) -> None:
        """The next version of ``root`` with a fresh expiry, and nothing else changed."""
        root.version += 1
        root.expires = self._expiry(Root.type)
        data = to_bytes(self._sign(Root.type, root, root))
        self._files.write_role(Root.type, root.version, data)

    def commit(
        self, base: Edition | None, changed: Mapping[str, Targets], directors: bytes
    ) -> Edition:
        """Sign what changed since ``base``, and make that the edition that exists.

        Args:
            base: the edition before; None for the first, which must change the targets role.
            changed: role name -> its new content; versions and expiries are set here. Nothing
                but a new timestamp (and snapshot, where due) if empty.
            directors: the bytes of ``directors.json``.

        Raises:
            FleetError: a key is missing or not the one that is delegated to, or the metadata
                would be longer than a device accepts; nothing was committed.
        """
        roots = self._files.roots()
        root = Metadata[Root].from_bytes(roots[-1])
        raw = {**(base.raw if base else {}), Root.type: roots[-1]}
        meta = dict(base.snapshot.signed.meta) if base else {}
        lines = dict(base.lines) if base else {}
        versions: dict[str, int] = {}

        def sign(role: str, signed: S, delegator: Root | Targets) -> Metadata[S]:
            signed.expires = self._expiry(signed.type)
            metadata = self._sign(role, signed, delegator)
            raw[role] = to_bytes(metadata)
            versions[role] = signed.version
            return metadata

        def sign_targets(role: str, delegator: Root | Targets) -> Metadata[Targets]:
            known = meta.get(f"{role}.json")
            changed[role].version = known.version + 1 if known else 1
            metadata = sign(role, changed[role], delegator)
            meta[f"{role}.json"] = _meta_file(metadata.signed.version, raw[role])
            return metadata

        if base is None or Targets.type in changed:
            targets = sign_targets(Targets.type, root.signed)
        else:
            targets = base.targets
        for role in changed:
            if role != Targets.type:
                lines[line_of(role)] = sign_targets(role, targets.signed)
        if base is None or changed or self.due(base.snapshot.signed):
            number = base.snapshot.signed.version + 1 if base else 1
            snapshot = sign(Snapshot.type, Snapshot(number, meta=meta), root.signed)
        else:
            snapshot = base.snapshot
        timestamp = sign(
            Timestamp.type,
            Timestamp(
                base.timestamp.signed.version + 1 if base else 1,
                snapshot_meta=_meta_file(snapshot.signed.version, raw[Snapshot.type]),
            ),
            root.signed,
        )

        edition = Edition(root, timestamp, snapshot, targets, lines, raw)
        for line in lines:
            _check_size(line, encode_metadata_set(edition.metadata_set(line, roots, directors)))
        del versions[Timestamp.type]
        for role, version in versions.items():
            self._files.write_role(role, version, raw[role])
        self._files.write_timestamp(raw[Timestamp.type])
        return edition

    def _sign(self, role: str, signed: S, delegator: Root | Targets) -> Metadata[S]:
        key = self._keys.load(role)
        metadata = Metadata(signed)
        metadata.sign(CryptoSigner(key, ed25519_key(public_bytes(key))))
        try:
            check_signed(metadata, role, delegator)
        except UnsignedMetadataError as error:
            raise FleetError(
                f"{self._keys.path(role)} is not the key that the repository names for"
                f" {role!r}: {error}",
                hint="restore the folder of keys that belongs to this repository",
                exit_code=ExitCode.AUTH,
            ) from error
        return metadata

    def _expiry(self, role_type: str) -> datetime:
        seconds = int(self._clock() + self._lifetimes.of(role_type))
        return datetime.fromtimestamp(seconds, timezone.utc)


def _meta_file(version: int, data: bytes) -> MetaFile:
    return MetaFile.from_data(version, data, ["sha256"])


def _check_size(line: str, encoded: bytes) -> None:
    if len(encoded) > MESSAGE_LIMIT_BYTES:
        raise FleetError(
            f"the signed metadata of {line!r} would be {len(encoded)} bytes; devices accept at"
            f" most {MESSAGE_LIMIT_BYTES}",
            hint="publish under a new model line",
        )
