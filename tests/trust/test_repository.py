"""Publishing: what is signed, what is refused, and what a crash or a second publisher leaves."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import DownloadHTTPError
from tuf.api.metadata import Metadata, MetaFile
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.trust.bundle_check import check_manifest
from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.layout import pack_tar
from edge_contract.metadata import decode_metadata_set
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.edition_signer import Lifetimes
from fleet.repository.tuf_repository import PublishedVersion, Repository
from tests.trust.bundle_maker import bundle_files, make_bundle, write_files
from tests.trust.tuf_simulator import DAY_S, NOW_S

ROLES = (
    *("root", "targets", "snapshot", "timestamp", "director", "audit", "line-digits"),
    *("offline-snapshot", "offline-timestamp"),
)


class Clock:
    def __init__(self, now_s: float = NOW_S) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s


def repository(tmp_path: Path, clock: Callable[[], float] | None = None) -> Repository:
    return Repository(tmp_path / "state", "shop", clock or Clock())


def approved_by_device(repo: Repository, tmp_path: Path, line: str = "digits") -> dict[str, str]:
    """What a device that was given the root approves: version -> digest."""
    store = TrustStore(tmp_path / "device", root=repo.root_bytes())
    approved = store.verify(repo.metadata_set(line), reference_s=NOW_S)
    return {version: target.digest for version, target in approved.targets.items()}


# --- what is good ----------------------------------------------------------------------------


def test_published_bundle_is_approved_by_a_device(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    published = repo.publish(bundle.path)
    assert (published.line, published.version) == ("digits", "1.0.0")
    assert (published.digest, published.already) == (bundle.digest, False)
    assert approved_by_device(repo, tmp_path) == {"1.0.0": bundle.digest}
    store = TrustStore(tmp_path / "device")
    approved = store.approved(reference_s=NOW_S)
    assert approved is not None
    manifest = repo.blob_path(bundle.digest).read_bytes()
    assert check_manifest(manifest, approved.targets["1.0.0"]) == bundle.manifest
    assert approved.directors.trusted("shop", "digits", NOW_S) == [
        public_bytes(repo.director_key())
    ]
    assert approved.directors.trusted("farm", "digits", NOW_S) == []
    assert approved.timestamp_version == repo.timestamp_version()


def test_every_blob_of_a_published_bundle_can_be_served(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    repo.publish(bundle.path)
    blobs = repo.blobs_of(bundle.digest)
    assert blobs == {descriptor.digest for descriptor in bundle.descriptors()}
    for digest in blobs:
        assert repo.blob_path(digest).read_bytes() == bundle.read_blob(digest, 1 << 20)
    assert {variant.target for variant in repo.model(bundle.digest).variants} == {
        "raspberry-pi-4",
        "x86-64",
    }


def test_stock_tuf_client_reads_the_repository(tmp_path: Path) -> None:
    class FromDisk(FetcherInterface):
        def _fetch(self, url: str) -> Iterator[bytes]:
            path = tmp_path / "state" / url.removeprefix("disk:/")
            if not path.is_file():
                raise DownloadHTTPError("not found", 404)
            return iter([path.read_bytes()])

    repo, bundle = repository(tmp_path, time.time), make_bundle(tmp_path / "b")
    repo.publish(bundle.path)
    client = Updater(str(tmp_path), "disk:/tuf/", fetcher=FromDisk(), bootstrap=repo.root_bytes())
    target = client.get_targetinfo("digits/1.0.0")
    assert target is not None
    assert "sha256:" + target.hashes["sha256"] == bundle.digest
    assert client.get_targetinfo("digits/2.0.0") is None


def test_bundle_as_a_tar_is_the_same_bundle(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    pack_tar(bundle, tmp_path / "b.tar")
    assert repo.publish(tmp_path / "b.tar").digest == bundle.digest
    assert repo.publish(bundle.path).already
    assert not list((tmp_path / "state").glob("incoming-*"))


def test_versions_are_listed_in_semantic_order(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    assert repo.published() == []
    versions = ["1.10.0", "1.9.0", "1.10.0-rc.2", "1.10.0-rc.10", "1.10.0-beta"]
    for number, version in enumerate(versions):
        repo.publish(make_bundle(tmp_path / str(number), version=version).path)
    face = make_bundle(tmp_path / "f", name="root")
    repo.publish(face.path)
    assert [f"{item.line} {item.version}" for item in repo.published()] == [
        "digits 1.9.0",
        "digits 1.10.0-beta",
        "digits 1.10.0-rc.2",
        "digits 1.10.0-rc.10",
        "digits 1.10.0",
        "root 1.0.0",
    ]
    assert repo.lines() == ["digits", "root"]
    assert repo.find("root", "1.0.0") == PublishedVersion("root", "1.0.0", face.digest)
    assert set(approved_by_device(repo, tmp_path, "root")) == {"1.0.0"}


def test_approval_file_is_enough_for_an_install_without_a_fleet(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    repo.publish(bundle.path, approval=tmp_path / "digits.approval.json")
    data = (tmp_path / "digits.approval.json").read_bytes()
    store = TrustStore(tmp_path / "device", root=repo.root_bytes())
    approved = store.verify(decode_metadata_set(data, where="approval"), reference_s=NOW_S)
    assert approved.require("1.0.0", bundle.digest)


def test_publishing_the_same_bundle_again_changes_nothing(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    repo.publish(bundle.path)
    before = repo.metadata_set("digits")
    assert repo.publish(bundle.path).already
    assert repo.metadata_set("digits") == before


def test_publishing_again_heals_a_damaged_blob(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    repo.publish(bundle.path)
    layer = bundle.manifest.layer("variants/x86-64.onnx")
    repo.blob_path(layer.digest).write_bytes(b"rot")
    repo.publish(bundle.path)
    assert repo.blob_path(layer.digest).read_bytes() == bundle.read_file(layer.path)


# --- what is refused -------------------------------------------------------------------------


def test_version_published_again_with_another_digest_is_refused(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    repo.publish(bundle.path)
    other = make_bundle(tmp_path / "other", weights=b"swapped")
    with pytest.raises(FleetError, match="published already with another content") as caught:
        repo.publish(other.path)
    assert bundle.digest in caught.value.message
    assert other.digest in caught.value.message
    assert caught.value.exit_code is ExitCode.FAILURE
    assert repo.published() == [PublishedVersion("digits", "1.0.0", bundle.digest)]


def test_tampered_blob_is_refused_and_nothing_is_published(tmp_path: Path) -> None:
    repo, bundle = repository(tmp_path), make_bundle(tmp_path / "b")
    path = bundle.blob_path(bundle.manifest.layer("variants/x86-64.onnx").digest)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    with pytest.raises(TrustError, match="digest differs"):
        repo.publish(bundle.path)
    assert repo.published() == []
    for descriptor in bundle.descriptors():
        with pytest.raises(FleetError, match="no blob"):
            repo.blob_path(descriptor.digest)


def test_bundle_whose_documents_disagree_is_refused(tmp_path: Path) -> None:
    files = bundle_files("digits", "1.0.0", b"w")
    bundle = write_files(tmp_path / "b", name="digits", version="2.0.0", files=files)
    with pytest.raises(ContractError, match=r"config says digits 2\.0\.0, model\.json says"):
        repository(tmp_path).publish(bundle.path)


def test_bundle_without_a_variant_s_file_is_refused(tmp_path: Path) -> None:
    files = bundle_files("digits", "1.0.0", b"w")
    del files["golden/x86-64.msgpack"]
    bundle = write_files(tmp_path / "b", name="digits", version="1.0.0", files=files)
    with pytest.raises(ContractError, match="bundle has no file"):
        repository(tmp_path).publish(bundle.path)


def test_path_that_is_no_bundle_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    for path in (tmp_path / "missing", tmp_path, tmp_path / "notes.txt"):
        with pytest.raises(ContractError):
            repository(tmp_path).publish(path)


def test_bundle_that_was_never_published_is_not_approved(tmp_path: Path) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    unsigned = make_bundle(tmp_path / "u", version="1.1.0")
    store = TrustStore(tmp_path / "device", root=repo.root_bytes())
    approved = store.verify(repo.metadata_set("digits"), reference_s=NOW_S)
    with pytest.raises(TrustError, match=r"digits 1\.1\.0 is not approved"):
        approved.require("1.1.0", unsigned.digest)
    with pytest.raises(FleetError, match=r"published: digits 1\.0\.0") as caught:
        repo.find("digits", "1.1.0")
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_empty_repository_says_what_to_do(tmp_path: Path) -> None:
    for ask in (Repository.root_bytes, Repository.timestamp_version, Repository.lines):
        with pytest.raises(FleetError, match="nothing was published yet") as caught:
            ask(repository(tmp_path))
        assert caught.value.hint == "edge-fleet publish BUNDLE"
    repository(tmp_path).initialise()
    with pytest.raises(FleetError, match="model line 'digits' has no published version"):
        repository(tmp_path).metadata_set("digits")


def test_repository_of_another_fleet_is_refused(tmp_path: Path) -> None:
    assert repository(tmp_path).initialise()
    with pytest.raises(FleetError, match=r"is the repository of fleet \['shop'\], not of 'farm'"):
        Repository(tmp_path / "state", "farm", Clock()).initialise()


def test_line_with_more_versions_than_a_device_accepts_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = repository(tmp_path)
    repo.publish(make_bundle(tmp_path / "b").path)
    before = repo.metadata_set("digits")
    monkeypatch.setattr("fleet.repository.edition_signer.MESSAGE_LIMIT_BYTES", 1000)
    with pytest.raises(FleetError, match="devices accept at most 1000"):
        repo.publish(make_bundle(tmp_path / "c", version="1.1.0").path)
    assert repo.metadata_set("digits") == before


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


# --- crashes and company ---------------------------------------------------------------------


def in_child(work: Callable[[], object]) -> int:
    """Run ``work`` in a forked process; its wait status."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def killed_at_fsync(number: int, work: Callable[[], object]) -> Callable[[], None]:
    """``work`` that is killed at the ``number``-th fsync, before it happens."""
    real = os.fsync
    seen = 0

    def fsync(handle: int) -> None:
        nonlocal seen
        if seen == number:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1
        real(handle)

    def run() -> None:
        os.fsync = fsync
        work()

    return run


@pytest.mark.parametrize("first", [True, False], ids=["first publish", "second publish"])
def test_crash_at_any_write_of_a_publish_leaves_a_valid_repository(
    first: bool, tmp_path: Path
) -> None:
    old = make_bundle(tmp_path / "old")
    new = make_bundle(tmp_path / "new", version="1.1.0", weights=b"new")
    start = {} if first else {"1.0.0": old.digest}
    whole = {**start, "1.1.0": new.digest}
    outcomes = []
    for number in range(200):
        here = tmp_path / str(number)
        repo = repository(here)
        if not first:
            repo.publish(old.path)
        status = in_child(killed_at_fsync(number, lambda repo=repo: repo.publish(new.path)))
        if status == 0:
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        found = {item.version: item.digest for item in repository(here).published()}
        assert found in (start, whole)
        outcomes.append(found == whole)
        if found:
            assert approved_by_device(repository(here), here) == found
        repository(here).publish(new.path)
        assert approved_by_device(repository(here), here) == whole
        for digest in repository(here).blobs_of(new.digest):
            assert repository(here).blob_path(digest).is_file()
        leftovers = [path for path in here.rglob(".*.part") if path.parent.name == "sha256"]
        assert leftovers == []
    else:
        pytest.fail("the publish never came to its end")
    assert len(outcomes) >= (30 if first else 15)
    assert outcomes.count(True) <= 2
    assert outcomes == sorted(outcomes)


def test_two_publishers_at_once_lose_nothing(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / f"b{number}", version=f"1.{number}.0") for number in range(8)]

    def publish(part: int) -> None:
        for bundle in bundles[part::2]:
            repository(tmp_path).publish(bundle.path)

    pids = []
    for part in (0, 1):
        pid = os.fork()
        if pid == 0:
            try:
                publish(part)
            except BaseException:
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0]
    assert approved_by_device(repository(tmp_path), tmp_path) == {
        f"1.{number}.0": bundle.digest for number, bundle in enumerate(bundles)
    }


def test_two_publishers_of_one_version_cannot_both_win(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / str(n), weights=bytes([n])) for n in range(2)]
    pids = []
    for bundle in bundles:
        pid = os.fork()
        if pid == 0:
            try:
                repository(tmp_path).publish(bundle.path)
            except FleetError:
                os._exit(3)
            except BaseException:
                os._exit(1)
            os._exit(0)
        pids.append(pid)
    codes = sorted(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids)
    assert codes == [0, 3]
    assert len(repository(tmp_path).published()) == 1
