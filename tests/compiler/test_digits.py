"""The example that ships with the project builds with its own data and contract."""

from __future__ import annotations

from pathlib import Path

from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from examples.digits.make_data import write_splits
from tests.compiler.conftest import Command

DIGITS = Path(__file__).parents[2] / "examples" / "digits"


def test_the_digits_example_passes_on_both_schemes(edge_compile: Command, tmp_path: Path) -> None:
    write_splits(tmp_path)
    words = ["build", str(DIGITS / "digits_float.onnx"), "--name", "digits", "--version", "1.0.0"]
    words += ["--target", "generic-x86-64", "--target", "raspberry-pi-4"]
    words += ["--preprocess", str(DIGITS / "preprocess.toml"), "--max-drop-pp", "1.5"]
    for split in ("calibration", "selection", "test"):
        words += [f"--{split}", str(tmp_path / f"{split}.npz")]
    ended = edge_compile([*words, "--out", str(tmp_path / "out"), "--json"])
    assert ended.code == 0
    assert ended.json["warnings"] == []
    for report in ended.json["targets"].values():
        assert report["n"] >= 600
        assert report["int8"]["accuracy"] > 0.97
        assert report["int8_ops"]["seen"] == report["int8_ops"]["expected"]
        assert report["bytes"]["int8"] < 0.6 * report["bytes"]["float"]
    bundle = BundleDir(tmp_path / "out" / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert manifest.preprocess.kind == "image"
