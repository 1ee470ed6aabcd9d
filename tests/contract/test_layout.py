"""Bundles on disk: canonical, all or nothing, and hostile to tampering."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path

import pytest

from edge_contract.digest import hex_of
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import BundleDir, pack_tar, unpack_tar, write_bundle
from edge_contract.manifest import DOC, WEIGHT, WEIGHT_CONFIG, ConfigDetail

FILES = {
    "model.json": (WEIGHT_CONFIG, b'{"a":1}'),
    "variants/pi.onnx": (WEIGHT, b"weights" * 1000),
    "evidence.json": (DOC, b"{}"),
}


def build(target: Path, files: dict[str, tuple[str, bytes]] | None = None) -> str:
    return write_bundle(
        target, name="kws", version="1.0.0", files=files or FILES, detail=ConfigDetail()
    )


def test_same_files_give_the_same_digest_from_any_directory_and_order(tmp_path: Path) -> None:
    first = build(tmp_path / "one" / "bundle")
    second = build(tmp_path / "two" / "elsewhere", dict(reversed(FILES.items())))
    assert first == second
    # The digest is a promise to every reader: it changes only with a change of the format.
    assert first == (Path(__file__).parent / "vectors" / "bundle.digest").read_text().strip()


def test_a_written_bundle_reads_back_and_verifies(tmp_path: Path) -> None:
    digest = build(tmp_path / "bundle")
    bundle = BundleDir(tmp_path / "bundle")
    bundle.verify()
    assert bundle.digest == digest
    assert bundle.read_file("variants/pi.onnx") == FILES["variants/pi.onnx"][1]
    assert [layer.path for layer in bundle.manifest.layers] == sorted(FILES)


def test_an_existing_target_is_never_overwritten(tmp_path: Path) -> None:
    build(tmp_path / "bundle")
    with pytest.raises(ContractError, match="exists already"):
        build(tmp_path / "bundle")


def test_a_failed_write_leaves_nothing_behind(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="file path"):
        build(tmp_path / "out" / "bundle", {"../escape": (DOC, b"x")})
    with pytest.raises(TypeError):
        build(tmp_path / "out" / "bundle", {"ok": (DOC, None)})  # type: ignore[dict-item]
    assert not list(tmp_path.rglob("*bundle*"))


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../b", "", "a//b", ".hidden", "a/b/c/d/e", "x" * 200, "a\nb"]
)
def test_paths_that_could_leave_the_bundle_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ContractError, match="is refused"):
        build(tmp_path / "bundle", {"model.json": FILES["model.json"], path: (DOC, b"x")})


def test_a_flipped_bit_in_a_blob_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "bundle")
    bundle = BundleDir(tmp_path / "bundle")
    victim = bundle.blob_path(bundle.manifest.layer("variants/pi.onnx").digest)
    data = bytearray(victim.read_bytes())
    data[5] ^= 1
    victim.write_bytes(data)
    with pytest.raises(TrustError, match="digest differs"):
        bundle.verify()
    with pytest.raises(TrustError, match="digest differs"):
        bundle.read_file("variants/pi.onnx")


def test_a_truncated_and_a_missing_blob_are_refused(tmp_path: Path) -> None:
    build(tmp_path / "bundle")
    bundle = BundleDir(tmp_path / "bundle")
    victim = bundle.blob_path(bundle.manifest.layer("variants/pi.onnx").digest)
    victim.write_bytes(victim.read_bytes()[:-1])
    with pytest.raises(TrustError, match=r"expected 7000 bytes .*, got 6999"):
        bundle.verify()
    victim.unlink()
    with pytest.raises(ContractError, match="missing blob"):
        bundle.verify()


def test_a_tampered_manifest_is_refused(tmp_path: Path) -> None:
    digest = build(tmp_path / "bundle")
    manifest = tmp_path / "bundle" / "blobs" / "sha256" / hex_of(digest)
    manifest.write_bytes(manifest.read_bytes().replace(b"kws", b"kwz") + b" ")
    with pytest.raises(TrustError, match="digest differs"):
        BundleDir(tmp_path / "bundle")


def test_a_blob_that_is_a_link_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "bundle")
    bundle = BundleDir(tmp_path / "bundle")
    victim = bundle.blob_path(bundle.manifest.layer("evidence.json").digest)
    victim.rename(tmp_path / "real")
    victim.symlink_to(tmp_path / "real")
    with pytest.raises(ContractError, match="symbolic link"):
        bundle.verify()


@pytest.mark.parametrize(
    "index",
    [b"", b"[]", b"{}", b'{"manifests":[]}', b'{"manifests":[{"digest":"md5:x"}]}', b"\xff\xfe"],
)
def test_a_malformed_index_gives_one_clear_error(tmp_path: Path, index: bytes) -> None:
    build(tmp_path / "bundle")
    (tmp_path / "bundle" / "index.json").write_bytes(index)
    with pytest.raises(ContractError):
        BundleDir(tmp_path / "bundle")


def test_something_else_than_a_bundle_says_what_a_bundle_is(tmp_path: Path) -> None:
    with pytest.raises(ContractError) as caught:
        BundleDir(tmp_path)
    assert "edge-compile build" in caught.value.hint


def test_tar_is_the_same_bundle_and_reproducible(tmp_path: Path) -> None:
    digest = build(tmp_path / "bundle")
    bundle = BundleDir(tmp_path / "bundle")
    pack_tar(bundle, tmp_path / "one.tar")
    os.utime(bundle.path / "index.json", (1, 1))
    pack_tar(bundle, tmp_path / "two.tar")
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "two.tar").read_bytes()
    unpack_tar(tmp_path / "one.tar", tmp_path / "again")
    again = BundleDir(tmp_path / "again")
    again.verify()
    assert again.digest == digest


def hostile_tar(path: Path, name: str, kind: bytes) -> None:
    with tarfile.open(path, "w") as tar:
        info = tarfile.TarInfo(name)
        info.type = kind
        info.linkname = "/etc/passwd"
        tar.addfile(info)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("../../escape", tarfile.REGTYPE),
        ("/abs", tarfile.REGTYPE),
        ("blobs/sha256/" + "a" * 64, tarfile.SYMTYPE),
        ("blobs/sha256/" + "a" * 64, tarfile.LNKTYPE),
        ("blobs/sha256/../../../x", tarfile.REGTYPE),
        ("oci-layout", tarfile.FIFOTYPE),
    ],
)
def test_hostile_tar_members_are_refused(tmp_path: Path, name: str, kind: bytes) -> None:
    hostile_tar(tmp_path / "evil.tar", name, kind)
    with pytest.raises(ContractError, match="is refused"):
        unpack_tar(tmp_path / "evil.tar", tmp_path / "out")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["evil.tar"]


def test_a_tar_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "bundle", {"model.json": (WEIGHT_CONFIG, b"x" * 100_000)})
    pack_tar(BundleDir(tmp_path / "bundle"), tmp_path / "b.tar")
    with pytest.raises(ContractError, match="more than 50000 bytes"):
        unpack_tar(tmp_path / "b.tar", tmp_path / "out", limit_bytes=50_000)
    assert not (tmp_path / "out").exists()


def test_garbage_is_not_a_tar(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(os.urandom(4096))
    with pytest.raises(ContractError, match="not a readable tar"):
        unpack_tar(tmp_path / "x.tar", tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"artifactType": "x"}, "artifactType"),
        ({"schemaVersion": 3}, "schemaVersion"),
        ({"layers": []}, "0 layers"),
        ({"mediaType": "x"}, "OCI image manifest"),
    ],
)
def test_manifests_of_another_kind_are_refused(
    tmp_path: Path, change: dict[str, object], message: str
) -> None:
    from edge_contract.manifest import decode_manifest

    build(tmp_path / "bundle")
    document = json.loads(BundleDir(tmp_path / "bundle").manifest_bytes) | change
    with pytest.raises(ContractError, match=message):
        decode_manifest(json.dumps(document).encode(), where="test")
