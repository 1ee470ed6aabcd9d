"""Keys of the manager's own: private, never replaced in silence, and renewed in time."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import TrustError
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.edition_signer import Lifetimes
from fleet.repository.tuf_repository import Repository
from tests.trust.bundle_maker import make_bundle
from tests.trust.small_repository import Clock, repository
from tests.trust.tuf_simulator import DAY_S, NOW_S

ROLES = (
    *("root", "targets", "snapshot", "timestamp", "director", "audit", "line-digits"),
    *("offline-snapshot", "offline-timestamp"),
)


# --- keys ------------------------------------------------------------------------------------


def test_keys_are_private_and_plainly_marked_as_development_keys(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    folder = tmp_path / "state" / "keys"
    assert folder.stat().st_mode & 0o777 == 0o700
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "DEVELOPMENT-KEYS.txt",
        *(f"development-{role}.pem" for role in ROLES),
    }
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in folder.iterdir())
    assert "DEVELOPMENT" in (folder / "DEVELOPMENT-KEYS.txt").read_text()
    assert "DEVELOPMENT" in repo.keys.warning


def test_key_that_others_can_read_is_not_used(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.initialise()
    repo.keys.path("director").chmod(0o644)
    with pytest.raises(FleetError, match="lets others read a signing key"):
        repo.director_key()


def test_lost_key_is_not_silently_replaced(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    before = repo.metadata_set("digits")
    for role in ("line-digits", "snapshot"):
        repo.keys.path(role).rename(tmp_path / role)
        with pytest.raises(FleetError, match="although the repository was signed with it"):
            repo.publish(make_bundle(tmp_path / f"without-{role}", version="1.1.0").path)
        (tmp_path / role).rename(repo.keys.path(role))
    assert repo.metadata_set("digits") == before


def test_key_of_another_repository_is_refused(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    shutil.copy(repo.keys.path("root"), repo.keys.path("line-digits"))
    with pytest.raises(FleetError, match="is not the key that the repository names"):
        repo.publish(make_bundle(tmp_path / "c", version="1.1.0").path)


def test_metadata_changed_on_disk_is_not_signed_over(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    path = tmp_path / "state" / "tuf" / "1.line-digits.json"
    path.write_bytes(path.read_bytes().replace(b"1.0.0", b"6.6.6"))
    with pytest.raises(TrustError, match="is not what was signed"):
        repo.publish(make_bundle(tmp_path / "c", version="1.1.0").path)


def test_line_signed_by_a_strange_key_is_not_signed_over(tmp_path: Path) -> None:
    """Although the snapshot and the timestamp above it are in order."""
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    folder = tmp_path / "state" / "tuf"

    def sign_again(name: str, key_name: str, change: MetaFile | None = None) -> MetaFile:
        metadata: Metadata[Any] = Metadata.from_bytes((folder / name).read_bytes())
        if metadata.signed.type == "snapshot":
            metadata.signed.meta["line-digits.json"] = change
        if metadata.signed.type == "timestamp":
            metadata.signed.snapshot_meta = change
        key = repo.keys.load(key_name)
        metadata.sign(CryptoSigner(key, ed25519_key(public_bytes(key))))
        (folder / name).write_bytes(metadata.to_bytes())
        return MetaFile.from_data(metadata.signed.version, metadata.to_bytes(), ["sha256"])

    line = sign_again("1.line-digits.json", "root")
    sign_again("timestamp.json", "timestamp", sign_again("2.snapshot.json", "snapshot", line))
    with pytest.raises(TrustError, match="line-digits was signed by 0/1 keys"):
        repo.publish(make_bundle(tmp_path / "c", version="1.1.0").path)


# --- renewing --------------------------------------------------------------------------------


def test_signatures_are_renewed_at_half_of_their_life(tmp_path: Path) -> None:
    clock = Clock()
    repo = repository(tmp_path, clock)
    repo.publish(make_bundle(tmp_path / "b").path)
    device = TrustStore(tmp_path / "device", root=repo.root_bytes())
    assert not repo.refresh_timestamp()
    version = repo.timestamp_version()
    for day in range(3, 500, 3):
        clock.now_s = NOW_S + day * DAY_S
        repo.refresh_timestamp()
        approved = device.verify(repo.metadata_set("digits"), reference_s=clock.now_s)
        assert approved.expires_s - clock.now_s >= 3 * DAY_S
        key = approved.directors.keys[0]
        assert key.expires - clock.now_s >= 180 * DAY_S
    assert repo.timestamp_version() > version + 60
    assert device.root_version == 3
    assert approved.require("1.0.0", repo.published()[0].digest)


def test_manager_away_for_longer_than_the_timestamp_lives_recovers(tmp_path: Path) -> None:
    clock = Clock()
    repo = Repository(
        tmp_path / "state", "shop", clock, Lifetimes(timestamp_s=60.0, snapshot_s=60.0)
    )
    repo.publish(make_bundle(tmp_path / "b").path)
    device = TrustStore(tmp_path / "device", root=repo.root_bytes())
    device.verify(repo.metadata_set("digits"), reference_s=clock.now_s)
    clock.now_s += 3600
    with pytest.raises(TrustError, match="expired"):
        device.verify(repo.metadata_set("digits"), reference_s=clock.now_s)
    assert repo.refresh_timestamp()
    assert device.verify(repo.metadata_set("digits"), reference_s=clock.now_s).targets
