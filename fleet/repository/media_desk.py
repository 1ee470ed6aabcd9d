"""What goes onto an offline medium beside a bundle: long-lived offline roles, and a signed order.

The offline snapshot and timestamp stand over the edition in force for a year. With development
keys they are signed at once; where people hold the keys, ``draft`` makes a file that each of them
signs (``sign_offline_files``) and ``take`` keeps it once the threshold is met.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone

import msgspec
from tuf.api.metadata import Metadata, MetaFile, Snapshot, Targets, Timestamp

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ExitCode, TrustError
from edge_contract.health import HealthSpec
from edge_contract.layout import write_durably
from edge_contract.media import (
    MEDIA_ORDER_TYPE,
    MediaDevice,
    MediaOrder,
    MediaSet,
    decode_media_order,
)
from edge_contract.metadata import (
    OFFLINE_ROLES,
    OFFLINE_SNAPSHOT,
    OFFLINE_TIMESTAMP,
    newest_roots,
)
from edge_contract.signing import sign_document
from fleet.errors import FleetError
from fleet.repository.edition_signer import owner_of, role_keys
from fleet.repository.offline_files import (
    OfflineFiles,
    kept_path,
    parse_offline_files,
    read_offline_files,
)
from fleet.repository.role_files import Edition, line_role, to_bytes
from fleet.repository.tuf_repository import Repository

_DAY_S = 86_400.0
ORDER_LIFE_S = 180 * _DAY_S
"""How long the order on a medium counts: it travels by hand."""


class _Sequence(msgspec.Struct, frozen=True, kw_only=True):
    schema: int = 1
    sequence: int


class MediaDesk:
    """Makes the documents of offline media.

    Args:
        repository: whose.
        who: for the audit log.
    """

    def __init__(self, repository: Repository, who: str) -> None:
        self._repository = repository
        self._archive = repository.archive
        self._who = who
        self._path = kept_path(self._archive)
        self._sequence_path = self._archive.state_dir / "media-sequence.json"

    def draft(self) -> OfflineFiles:
        """The next offline snapshot and timestamp over the edition in force, with the signatures of
        the keys that are here.

        Raises:
            FleetError: nothing was published yet.
        """
        base = self._archive.files.read()
        number = self._last_version() + 1
        expires = self._archive.signer.expiry_after(self._archive.lifetimes.offline_s)
        meta = {
            f"{role}.json": MetaFile.from_data(version, base.raw[role], ["sha256"])
            for role, version in self._versions(base).items()
        }
        snapshot = Metadata(Snapshot(number, expires=expires, meta=meta))
        # By its version alone: its hash would change with every further signature.
        stamp = Timestamp(number, expires=expires, snapshot_meta=MetaFile(number))
        timestamp = Metadata(stamp)
        targets = base.targets.signed
        self._archive.signer.sign_held(OFFLINE_SNAPSHOT, snapshot, targets)
        self._archive.signer.sign_held(OFFLINE_TIMESTAMP, timestamp, targets)
        return OfflineFiles(
            fleet=self._archive.fleet, snapshot=to_bytes(snapshot), timestamp=to_bytes(timestamp)
        )

    def take(self, files: OfflineFiles) -> None:
        """Keep offline files that are signed by their thresholds.

        Raises:
            FleetError: signatures are missing; says whose.
            TrustError: they are not over the edition in force, or go back.
        """
        with self._archive.exclusive():
            base = self._archive.files.read()
            snapshot, timestamp = parse_offline_files(files)
            self._require_signed(base, snapshot, timestamp)
            named = {role: f"{role}.json" for role in self._versions(base)}
            for role, name in named.items():
                meta = snapshot.signed.meta.get(name)
                if meta is None or meta.version != self._versions(base)[role]:
                    raise TrustError(
                        f"the offline files are not over {role} version"
                        f" {self._versions(base)[role]}, which is in force",
                        hint="edge-fleet media prepare FILE, and have it signed again",
                    )
            if files == self._kept():
                return
            if timestamp.signed.version <= self._last_version():
                raise TrustError(
                    "the offline files are older than those that are kept",
                    hint="edge-fleet media prepare FILE, and have it signed again",
                )
            text = f"offline metadata version {timestamp.signed.version}"
            self._archive.record(self._who, "media", "offline", text)
            write_durably(self._path, encode_json(files))

    def media_set(
        self,
        line: str,
        version: str,
        devices: Sequence[MediaDevice],
        *,
        rollout: str,
        health: HealthSpec | None = None,
    ) -> MediaSet:
        """``media.json`` for a set of devices, with the next sequence.

        Offline files that are missing or outdated are made now where the keys are here.

        Raises:
            FleetError: the version is not published, or people have to sign offline files first.
        """
        published = self._repository.find(line, version)
        if not self._current():
            self.take(self.draft())
        with self._archive.exclusive():
            base = self._archive.files.read()
            files = self._kept()
            assert files is not None
            _, timestamp = parse_offline_files(files)
            sequence = self._next_sequence()
            now_s = self._archive.clock()
            order = MediaOrder(
                fleet=self._archive.fleet,
                line=line,
                epoch=self._repository.director_epoch(),
                sequence=sequence,
                issued_at=now_s,
                expires=now_s + ORDER_LIFE_S,
                timestamp_version_min=timestamp.signed.version,
                version=version,
                manifest_digest=published.digest,
                rollout=rollout,
                devices=list(devices),
                health=health or HealthSpec(),
            )
            payload = encode_json(order)
            decode_media_order(payload)
            text = f"{line} {version} for {len(devices)} devices, sequence {sequence}"
            self._archive.record(self._who, "media", f"{line} {version}", text)
            return MediaSet(
                line=line,
                roots=newest_roots(base.roots),
                offline_timestamp=files.timestamp,
                offline_snapshot=files.snapshot,
                targets=base.raw[Targets.type],
                line_role=base.raw[line_role(line)],
                directors=self._archive.directors_bytes(base),
                order=sign_document(self._repository.director_key(), MEDIA_ORDER_TYPE, payload),
            )

    def _current(self) -> bool:
        """Whether the kept offline files stand over the edition in force, for a while yet."""
        files = self._kept()
        if files is None:
            return False
        snapshot, timestamp = parse_offline_files(files)
        base = self._archive.files.read()
        wanted = {f"{role}.json": number for role, number in self._versions(base).items()}
        now = datetime.fromtimestamp(self._archive.clock() + ORDER_LIFE_S, timezone.utc)
        fresh = min(snapshot.signed.expires, timestamp.signed.expires) > now
        return fresh and {n: m.version for n, m in snapshot.signed.meta.items()} == wanted

    def _require_signed(
        self, base: Edition, snapshot: Metadata[Snapshot], timestamp: Metadata[Timestamp]
    ) -> None:
        targets = base.targets.signed
        if not set(OFFLINE_ROLES) <= set((targets.delegations and targets.delegations.roles) or {}):
            raise FleetError("the targets role names no keys for offline media")
        for role, data, signatures in (
            (OFFLINE_SNAPSHOT, snapshot.signed_bytes, snapshot.signatures),
            (OFFLINE_TIMESTAMP, timestamp.signed_bytes, timestamp.signatures),
        ):
            done = targets.get_verification_result(role, data, signatures)
            if not done:
                keys = [k for k in role_keys(targets, role) if k.keyid not in done.signed]
                owners = ", ".join(owner_of(key) for key in keys)
                raise FleetError(
                    f"{role} needs {done.threshold - len(done.signed)} more of {owners}",
                    hint="edge-fleet media prepare FILE; edge-fleet media sign FILE --key NAME.key;"
                    " edge-fleet media publish FILE",
                    exit_code=ExitCode.AUTH,
                    docs="how-to/ceremony.md",
                )

    def _versions(self, base: Edition) -> dict[str, int]:
        lines = {line_role(line): item.signed.version for line, item in base.lines.items()}
        return {Targets.type: base.targets.signed.version, **lines}

    def _kept(self) -> OfflineFiles | None:
        return read_offline_files(self._path) if self._path.exists() else None

    def _last_version(self) -> int:
        files = self._kept()
        return parse_offline_files(files)[1].signed.version if files else 0

    def _next_sequence(self) -> int:
        before = 0
        if self._sequence_path.exists():
            data = self._sequence_path.read_bytes()
            before = decode_json(data, _Sequence, what=str(self._sequence_path)).sequence
        write_durably(self._sequence_path, encode_json(_Sequence(sequence=before + 1)))
        return before + 1
