"""Publishing: what is signed, and what is refused."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tuf.api.exceptions import DownloadHTTPError
from tuf.ngclient import FetcherInterface, Updater

from edge_agent.trust.bundle_check import check_manifest
from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import ContractError, ExitCode, TrustError
from edge_contract.layout import pack_tar
from edge_contract.metadata import decode_metadata_set
from edge_contract.signing import public_bytes
from fleet.errors import FleetError
from fleet.repository.tuf_repository import PublishedVersion, Repository
from tests.trust.bundle_maker import bundle_files, make_bundle, write_files
from tests.trust.office import Office
from tests.trust.small_repository import Clock, approved_by_device, repository
from tests.trust.tuf_simulator import NOW_S

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
    monkeypatch.setattr("fleet.repository.message_sizes.MESSAGE_LIMIT_BYTES", 1000)
    with pytest.raises(FleetError, match="devices accept at most 1000"):
        repo.publish(make_bundle(tmp_path / "c", version="1.1.0").path)
    assert repo.metadata_set("digits") == before


def test_damaged_root_of_the_past_is_not_handed_to_devices(office: Office) -> None:
    path = office.home / "state" / "tuf" / "1.root.json"
    whole = path.read_bytes()
    for damaged in (whole[:50], whole.replace(b'"consistent_snapshot":true', b'"x":1')):
        assert damaged != whole
        path.write_bytes(damaged)
        with pytest.raises(TrustError, match="is not what was signed"):
            office.repository.metadata_set("digits")
    path.write_bytes((office.home / "state" / "tuf" / "2.root.json").read_bytes())
    with pytest.raises(TrustError, match="is not what was signed"):
        office.repository.metadata_set("digits")
    path.write_bytes(whole)
    assert office.device() == {"1.0.0"}
