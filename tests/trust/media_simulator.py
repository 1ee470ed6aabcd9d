"""Offline media made by the simulated publisher, who may do anything."""

from __future__ import annotations

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import DelegatedRole, MetaFile, Snapshot, Timestamp

from edge_contract.codec import encode_json
from edge_contract.digest import digest_of
from edge_contract.media import MEDIA_ORDER_TYPE, MediaDevice, MediaOrder, MediaSet
from edge_contract.signing import ed25519_key, public_bytes, sign_document
from tests.trust.tuf_simulator import DAY_S, DEVICE_KEY, LINE, NOW_S, ROLE, Publisher, date

OFFLINE = ("offline-snapshot", "offline-timestamp")


class MediaPublisher(Publisher):
    """A publisher that names two keys for offline media and writes media."""

    def __init__(self, *, root_keys: int = 1, root_threshold: int = 1) -> None:
        super().__init__(root_keys=root_keys, root_threshold=root_threshold)
        self.offline_version = 1
        self.offline_expires = date(NOW_S + 365 * DAY_S)
        self.targets.expires = self.line.expires = date(NOW_S + 300 * DAY_S)
        assert self.targets.delegations is not None
        assert self.targets.delegations.roles is not None
        for role in OFFLINE:
            self.keys[role] = [Ed25519PrivateKey.generate() for _ in range(2)]
            delegated = DelegatedRole(role, [], 2, terminating=True, paths=[role])
            self.targets.delegations.roles[role] = delegated
            for key in self.keys[role]:
                self.targets.add_key(ed25519_key(public_bytes(key)), role)

    def media_set(self, **changes: object) -> MediaSet:
        """A medium for cam-1 that is right but for ``changes`` of its order."""
        targets, line_role = self.sign("targets", self.targets), self.sign(ROLE, self.line)
        meta = {
            "targets.json": MetaFile.from_data(self.targets.version, targets, ["sha256"]),
            f"{ROLE}.json": MetaFile.from_data(self.line.version, line_role, ["sha256"]),
        }
        number, expires = self.offline_version, self.offline_expires
        stamp = Timestamp(number, expires=expires, snapshot_meta=MetaFile(number))
        return MediaSet(
            line=LINE,
            roots=list(self.roots),
            offline_timestamp=self.sign(OFFLINE[1], stamp),
            offline_snapshot=self.sign(OFFLINE[0], Snapshot(number, expires=expires, meta=meta)),
            targets=targets,
            line_role=line_role,
            directors=self.directors,
            order=self.media_order(**changes),
        )

    def media_order(self, **changes: object) -> bytes:
        """A signed order for a set of devices with cam-1 in it."""
        fields: dict[str, object] = {
            "fleet": "shop",
            "line": LINE,
            "epoch": 1,
            "sequence": 1,
            "issued_at": NOW_S,
            "expires": NOW_S + 20 * DAY_S,
            "timestamp_version_min": 1,
            "version": "1.0.0",
            "manifest_digest": digest_of(b"{}"),
            "rollout": "usb",
            "devices": [
                MediaDevice(device="cam-1", device_key=DEVICE_KEY, hardware="raspberry-pi-4")
            ],
        }
        order = MediaOrder(**{**fields, **changes})  # type: ignore[arg-type]
        return sign_document(self.keys["director"][0], MEDIA_ORDER_TYPE, encode_json(order))
