"""The client under test, as the public TUF conformance suite sees one: init, refresh, download."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.verifier import TrustStore
from edge_contract.codec import decode_json
from edge_contract.errors import TrustError, WherryError
from edge_contract.metadata import MetadataSet
from edge_contract.signing import ed25519_key, public_bytes
from tests.trust.tuf_simulator import NOW_S, ROLE, Publisher

NAMES = ("root", "timestamp", "snapshot", "targets", "line")


class Client:
    """A device with a trust store, and the repository that it is pointed at."""

    def __init__(self, home: Path, publisher: Publisher, *, root: bytes | None = None) -> None:
        self.home = home
        self.publisher = publisher
        self.now_s = NOW_S
        self.store = TrustStore(home, root=root or publisher.roots[0])

    def refresh(self, metadata: MetadataSet | None = None) -> ApprovedLine | None:
        """What is approved afterwards, or None where the client refused."""
        # A new process each time: nothing but the file is remembered.
        self.store = TrustStore(self.home)
        value = metadata or self.publisher.metadata_set()
        try:
            return self.store.verify(value, reference_s=self.now_s)
        except WherryError:
            return None

    def versions(self) -> dict[str, int]:
        """The versions that the client trusts now; 0 for none."""
        raw = decode_json(
            (self.home / "trusted.json").read_bytes(),
            dict[str, object],
            what="trusted.json",
            limit_bytes=1 << 22,
        )
        import base64

        found = {}
        for name, field in zip(NAMES, (*NAMES[:4], "line_role"), strict=True):
            data = base64.b64decode(str(raw[field]))
            found[name] = _version(data) if data else 0
        return found

    def download(self, version: str, digest: str) -> bool:
        """Whether the client would install this."""
        approved = self.store.approved(reference_s=self.now_s)
        if approved is None:
            return False
        try:
            approved.require(version, digest)
        except TrustError:
            return False
        return True


def rotate(publisher: Publisher, role: str, *, keep: int = 0, new: int = 1) -> None:
    """Give a role new keys in its delegator, keeping the first ``keep`` of the old."""
    old = publisher.keys[role]
    fresh = [Ed25519PrivateKey.generate() for _ in range(new)]
    delegator: Root | Targets = publisher.targets if role == ROLE else publisher.root
    for key in old[keep:]:
        delegator.revoke_key(ed25519_key(public_bytes(key)).keyid, role)
    for key in fresh:
        delegator.add_key(ed25519_key(public_bytes(key)), role)
    publisher.keys[role] = old[:keep] + fresh
    if role == ROLE:
        publisher.targets.version += 1
        publisher.bump()


def publish_root(publisher: Publisher, *also: Ed25519PrivateKey) -> None:
    """The next root, signed by the keys in force and by ``also``."""
    publisher.keys["root"] += also
    publisher.rotate_root()
    del publisher.keys["root"][len(publisher.keys["root"]) - len(also) :]


def _version(data: bytes) -> int:
    metadata: Metadata[Root | Timestamp | Snapshot | Targets] = Metadata.from_bytes(data)
    return metadata.signed.version


def edited(data: bytes, **changes: Any) -> bytes:
    """A file with fields of its signed part replaced; the signatures are the old ones."""
    document = json.loads(data)
    document["signed"].update(changes)
    return json.dumps(document).encode()


def swap(metadata: MetadataSet, **parts: Any) -> MetadataSet:
    return msgspec.structs.replace(metadata, **parts)
