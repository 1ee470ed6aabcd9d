"""A bundle against its approval on the device: whole, tampered with, or under another name."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.trust.approved import ApprovedTarget
from edge_agent.trust.bundle_check import check_blob, check_manifest, check_model
from edge_agent.update.content import needed_layers
from edge_contract.errors import ContractError, TrustError
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE
from tests.trust.bundle_maker import make_bundle


@pytest.fixture
def bundle(tmp_path: Path) -> BundleDir:
    return make_bundle(tmp_path / "bundle")


def target_of(bundle: BundleDir) -> ApprovedTarget:
    return ApprovedTarget("1.0.0", bundle.digest, len(bundle.manifest_bytes))


def test_approved_manifest_names_what_this_board_needs(bundle: BundleDir) -> None:
    manifest = check_manifest(bundle.manifest_bytes, target_of(bundle))
    model = check_model(bundle.read_file(MODEL_FILE), manifest, line="digits", version="1.0.0")
    assert [layer.path for layer in needed_layers(manifest, model, "raspberry-pi-4")] == [
        "model.json",
        "variants/raspberry-pi-4.onnx",
        "golden/raspberry-pi-4.msgpack",
        "drift-reference.msgpack",
        "hooks/post-install",
    ]


def test_tampered_manifest_is_refused(bundle: BundleDir) -> None:
    tampered = bundle.manifest_bytes.replace(b"raspberry", b"strawbery")
    with pytest.raises(TrustError, match="digest differs"):
        check_manifest(tampered, target_of(bundle))


def test_endless_manifest_is_refused_by_its_length(bundle: BundleDir) -> None:
    with pytest.raises(TrustError, match="approved with"):
        check_manifest(bundle.manifest_bytes + b" " * 10_000, target_of(bundle))


def test_tampered_blob_is_refused(bundle: BundleDir) -> None:
    layer = bundle.manifest.layer("variants/x86-64.onnx")
    data = bundle.read_file(layer.path)
    assert check_blob(data, layer) == data
    with pytest.raises(TrustError, match=r"variants/x86-64\.onnx: digest differs"):
        check_blob(b"X" + data[1:], layer)
    with pytest.raises(TrustError, match=r"expected .* bytes, got"):
        check_blob(data + b"X", layer)


@pytest.mark.parametrize(("line", "version"), [("faces", "1.0.0"), ("digits", "2.0.0")])
def test_bundle_approved_under_another_name_is_refused(
    line: str, version: str, bundle: BundleDir
) -> None:
    with pytest.raises(TrustError, match=r"holds digits 1\.0\.0"):
        check_model(bundle.read_file(MODEL_FILE), bundle.manifest, line=line, version=version)


def test_bundle_without_a_variant_for_this_board_is_refused(bundle: BundleDir) -> None:
    model = check_model(
        bundle.read_file(MODEL_FILE), bundle.manifest, line="digits", version="1.0.0"
    )
    with pytest.raises(ContractError, match="no variant for 'jetson-orin-nano'"):
        needed_layers(bundle.manifest, model, "jetson-orin-nano")
