"""The signed TUF files on disk, and what ``timestamp.json`` makes of them.

Every role but the timestamp lies under a versioned name (``3.snapshot.json``) and is never
changed once it is reached from ``timestamp.json``. So writing the new versions first and the
timestamp last is all that a publish needs to be all or nothing: a file that the timestamp does
not reach does not exist. A root that changes the keys of the online roles counts together with
the timestamp that is signed by the new ones: the newest root under which everything verifies is
the one that exists.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tuf.api.exceptions import RepositoryError, UnsignedMetadataError
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from edge_contract.errors import ExitCode, TrustError
from edge_contract.layout import write_durably
from edge_contract.metadata import OFFLINE_ROLES, MetadataSet, newest_roots
from fleet.errors import FleetError

_SERIALIZER = JSONSerializer(compact=True)
_TIMESTAMP_FILE = "timestamp.json"
_LINE_ROLE_PREFIX = "line-"
S = TypeVar("S", Root, Timestamp, Snapshot, Targets)


def line_role(line: str) -> str:
    """The TUF role of a model line; the prefix keeps a line "root" apart from the root role."""
    return _LINE_ROLE_PREFIX + line


def line_of(role: str) -> str:
    """The model line of a line's role."""
    return role.removeprefix(_LINE_ROLE_PREFIX)


def to_bytes(metadata: Metadata[S]) -> bytes:
    """The file's bytes, as signed: the serialised form is what hashes are taken over."""
    return metadata.to_bytes(_SERIALIZER)


def check_signed(metadata: Metadata[S], role: str, delegator: Root | Targets) -> None:
    """Whether enough keys of ``role``, as ``delegator`` names them, signed ``metadata``.

    Raises:
        UnsignedMetadataError: they did not.
    """
    delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)


@dataclass(frozen=True)
class Edition:
    """One consistent set of verified metadata: what devices can see now.

    raw: the bytes of every role, ``root`` and ``timestamp`` included.
    lines: the roles that model lines are delegated to, by line.
    roots: every root up to the one in force, version 1 first.
    """

    root: Metadata[Root]
    timestamp: Metadata[Timestamp]
    snapshot: Metadata[Snapshot]
    targets: Metadata[Targets]
    lines: dict[str, Metadata[Targets]]
    raw: dict[str, bytes]
    roots: tuple[bytes, ...]

    def role(self, name: str) -> Metadata[Root] | Metadata[Targets] | None:
        """An offline role by its name; None for a line without one."""
        if name == Root.type:
            return self.root
        return self.targets if name == Targets.type else self.lines.get(line_of(name))

    def metadata_set(self, line: str, directors: bytes) -> MetadataSet:
        """What a device of ``line`` needs, as one document for a file.

        Raises:
            FleetError: the line has no published version.
        """
        if line not in self.lines:
            raise FleetError(
                f"model line {line!r} has no published version",
                hint="edge-fleet publish BUNDLE",
                exit_code=ExitCode.NOT_FOUND,
            )
        return MetadataSet(
            line=line,
            roots=newest_roots(self.roots),
            timestamp=self.raw[Timestamp.type],
            snapshot=self.raw[Snapshot.type],
            targets=self.raw[Targets.type],
            line_role=self.raw[line_role(line)],
            directors=directors,
        )


class RoleFiles:
    """A folder of signed metadata, with the names that TUF's consistent snapshots have."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def exists(self) -> bool:
        """Whether anything was ever committed here."""
        return (self._directory / _TIMESTAMP_FILE).is_file()

    def roots(self) -> list[bytes]:
        """Every root on disk, version 1 first; the last may not be in force yet."""
        found: list[bytes] = []
        while (path := self._path(Root.type, len(found) + 1)).is_file():
            found.append(path.read_bytes())
        return found

    def read(self) -> Edition:
        """The committed edition, every file of it checked against its signer and its hash.

        Raises:
            FleetError: nothing was committed yet, or a file is missing.
            TrustError: a file is not what was signed. Signing on top of it would launder it.
        """
        if not self.exists():
            raise FleetError(
                f"no TUF metadata in {self._directory}: nothing was published yet",
                hint="edge-fleet publish BUNDLE",
                exit_code=ExitCode.NOT_FOUND,
            )
        try:
            return self._read()
        except FileNotFoundError as error:
            raise FleetError(
                f"{error.filename}: signed metadata is missing",
                hint="restore the repository's folder from a backup",
            ) from error
        except RepositoryError as error:
            raise TrustError(
                f"{self._directory}: the metadata on disk is not what was signed: {error}",
                hint="restore the repository's folder from a backup and find out who changed it",
            ) from error

    def history(self, role: str) -> list[Metadata[Targets]]:
        """Every version of a line's role that is on disk, newest first."""
        found = []
        for path in self._directory.glob(f"*.{role}.json"):
            number = path.name.partition(".")[0]
            if number.isdigit():
                found.append((int(number), path))
        return [
            Metadata[Targets].from_bytes(p.read_bytes()) for _, p in sorted(found, reverse=True)
        ]

    def _read(self) -> Edition:
        roots = self.roots()
        refusal: UnsignedMetadataError | None = None
        while roots:
            try:
                return self._read_under(roots)
            except UnsignedMetadataError as error:
                # Written, but the timestamp that goes with it is not: a publisher was cut off.
                refusal = refusal or error
                roots = roots[:-1]
        raise refusal or FileNotFoundError(2, "missing", str(self._path(Root.type, 1)))

    def _read_under(self, roots: list[bytes]) -> Edition:
        raw: dict[str, bytes] = {
            Timestamp.type: (self._directory / _TIMESTAMP_FILE).read_bytes(),
            Root.type: roots[-1],
        }
        root = Metadata[Root].from_bytes(raw[Root.type])
        check_signed(root, Root.type, root.signed)
        timestamp = Metadata[Timestamp].from_bytes(raw[Timestamp.type])
        check_signed(timestamp, Timestamp.type, root.signed)

        meta = timestamp.signed.snapshot_meta
        raw[Snapshot.type] = self._path(Snapshot.type, meta.version).read_bytes()
        meta.verify_length_and_hashes(raw[Snapshot.type])
        snapshot = Metadata[Snapshot].from_bytes(raw[Snapshot.type])
        check_signed(snapshot, Snapshot.type, root.signed)

        for file_name, meta in snapshot.signed.meta.items():
            role = file_name.removesuffix(".json")
            raw[role] = self._path(role, meta.version).read_bytes()
            meta.verify_length_and_hashes(raw[role])
        targets = Metadata[Targets].from_bytes(raw[Targets.type])
        check_signed(targets, Targets.type, root.signed)

        lines: dict[str, Metadata[Targets]] = {}
        delegations = targets.signed.delegations
        for role in (delegations.roles or {}) if delegations else ():
            if role in OFFLINE_ROLES:
                continue
            metadata = Metadata[Targets].from_bytes(raw[role])
            check_signed(metadata, role, targets.signed)
            lines[line_of(role)] = metadata
        _check_chain(roots)
        return Edition(root, timestamp, snapshot, targets, lines, raw, tuple(roots))

    def write_role(self, role: str, version: int, data: bytes) -> None:
        """Write a versioned file. Not visible to anyone before ``write_timestamp``."""
        self._directory.mkdir(parents=True, exist_ok=True)
        write_durably(self._path(role, version), data)

    def write_timestamp(self, data: bytes) -> None:
        """Commit: from here on the new edition is the one that exists."""
        write_durably(self._directory / _TIMESTAMP_FILE, data)

    def drop_roots_after(self, version: int) -> None:
        """Remove roots that never came into force."""
        number = version + 1
        while (path := self._path(Root.type, number)).is_file():
            path.unlink()
            number += 1

    def _path(self, role: str, version: int) -> Path:
        return self._directory / f"{version}.{role}.json"


def _check_chain(roots: list[bytes]) -> None:
    """Whether every root is signed by the one before it: devices and signers follow all of them.

    Raises:
        RepositoryError: one is damaged or another.
    """
    before: Root | None = None
    for number, data in enumerate(roots, start=1):
        metadata = Metadata[Root].from_bytes(data)
        try:
            check_signed(metadata, Root.type, before or metadata.signed)
        except UnsignedMetadataError as error:
            raise RepositoryError(f"root {number}: {error}") from error
        if metadata.signed.version != number:
            raise RepositoryError(f"root {number} says that it is {metadata.signed.version}")
        before = metadata.signed
