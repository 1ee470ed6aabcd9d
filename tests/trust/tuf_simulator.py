"""A publisher in memory that can do what an attacker can: any role, any key, any version.

It shares no code with ``fleet.repository``; a test changes what it wants and takes a set.
"""

from __future__ import annotations

from datetime import datetime, timezone

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)

from edge_contract.codec import encode_json
from edge_contract.desired import DESIRED_TYPE, Desired, DirectorKey, Directors
from edge_contract.digest import digest_of
from edge_contract.metadata import MetadataSet
from edge_contract.signing import ed25519_key, fingerprint, public_bytes, sign_document

NOW_S = 1_900_000_000.0
DAY_S = 86_400.0
LINE = "digits"
ROLE = "line-digits"
DEVICE_KEY = fingerprint(bytes(32))


def date(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)


class Publisher:
    """One fleet's repository and director. ``keys`` maps a role to the keys that sign it."""

    def __init__(self, *, root_keys: int = 1, root_threshold: int = 1) -> None:
        make = Ed25519PrivateKey.generate
        self.keys = {
            role: [make()]
            for role in (Targets.type, Snapshot.type, Timestamp.type, ROLE, "director")
        }
        self.keys[Root.type] = [make() for _ in range(root_keys)]
        life = date(NOW_S + 30 * DAY_S)
        self.root = Root(expires=life, consistent_snapshot=True)
        for role in (Root.type, Targets.type, Snapshot.type, Timestamp.type):
            for key in self.keys[role]:
                self.root.add_key(ed25519_key(public_bytes(key)), role)
        self.root.roles[Root.type].threshold = root_threshold
        self.targets = Targets(expires=life, delegations=Delegations(keys={}, roles={}))
        self.delegate(LINE, ROLE)
        self.line = Targets(expires=life)
        self.snapshot = Snapshot(expires=life)
        self.timestamp = Timestamp(expires=date(NOW_S + 7 * DAY_S))
        self.roots = [self.sign(Root.type, self.root)]
        self.directors = b""
        self.name_director()

    def delegate(self, line: str, role: str) -> None:
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        self.targets.delegations.roles[role] = DelegatedRole(
            role, [], 1, terminating=True, paths=[f"{line}/*"]
        )
        self.targets.add_key(ed25519_key(public_bytes(self.keys[role][0])), role)

    def sign(self, role: str, signed: Root | Timestamp | Snapshot | Targets) -> bytes:
        metadata = Metadata(signed)
        for key in self.keys[role]:
            metadata.sign(CryptoSigner(key, ed25519_key(public_bytes(key))), append=True)
        return metadata.to_bytes()

    def name_director(
        self, *, fleet: str = "shop", expires: float = NOW_S + 30 * DAY_S, epoch: int = 1
    ) -> None:
        public = public_bytes(self.keys["director"][0]).hex()
        key = DirectorKey(public=public, fleets=[fleet], lines=["*"], expires=expires)
        self.directors = encode_json(Directors(keys=[key], epoch=epoch))
        self.targets.targets["directors.json"] = TargetFile.from_data(
            "directors.json", self.directors
        )
        self.targets.version += 1

    def approve(self, version: str, manifest: bytes = b"{}", line: str = LINE) -> None:
        """Add a version to the line's role and raise every version on the way."""
        path = f"{line}/{version}"
        self.line.targets[path] = TargetFile.from_data(path, manifest, ["sha256"])
        self.line.version += 1
        self.bump()

    def bump(self) -> None:
        """Raise the snapshot's and the timestamp's version."""
        self.snapshot.version += 1
        self.timestamp.version += 1

    def rotate_root(self) -> None:
        """The next root, signed by the keys that ``keys`` holds for it now."""
        self.root.version += 1
        self.roots.append(self.sign(Root.type, self.root))

    def metadata_set(self, line: str = LINE) -> MetadataSet:
        targets, line_role = self.sign("targets", self.targets), self.sign(ROLE, self.line)
        self.snapshot.meta = {
            "targets.json": MetaFile.from_data(self.targets.version, targets, ["sha256"]),
            f"{ROLE}.json": MetaFile.from_data(self.line.version, line_role, ["sha256"]),
        }
        snapshot = self.sign("snapshot", self.snapshot)
        self.timestamp.snapshot_meta = MetaFile.from_data(
            self.snapshot.version, snapshot, ["sha256"]
        )
        return MetadataSet(
            line=line,
            roots=list(self.roots),
            timestamp=self.sign("timestamp", self.timestamp),
            snapshot=snapshot,
            targets=targets,
            line_role=line_role,
            directors=self.directors,
        )

    def order(self, **changes: object) -> bytes:
        """A signed ``desired`` for device cam-1 that is right but for ``changes``."""
        fields: dict[str, object] = {
            "fleet": "shop",
            "device": "cam-1",
            "device_key": DEVICE_KEY,
            "epoch": 1,
            "seq": 1,
            "issued_at": NOW_S,
            "expires": NOW_S + DAY_S,
            "timestamp_version_min": 1,
            "line": LINE,
            "version": "1.0.0",
            "hardware": "raspberry-pi-4",
            "manifest_digest": digest_of(b"{}"),
            "rollout": "r1",
        }
        desired = Desired(**{**fields, **changes})  # type: ignore[arg-type]
        return sign_document(self.keys["director"][0], DESIRED_TYPE, encode_json(desired))
