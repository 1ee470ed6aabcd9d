"""A .tflite variant on emulated boards: with and without dotprod, LiteRT takes other kernels.

No onnxruntime is installed on these boards: what runs a .tflite file must do without.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from compiler.cli import main
from device_configs.loader import load_profile
from examples.digits.make_data import write_splits
from tests.device.board import ROOT, emulate

pytestmark = [pytest.mark.device, pytest.mark.timeout(900)]

PROBE = Path(__file__).with_name("golden_probe.py")
DIGITS = ROOT / "examples" / "digits"
TARGETS = ("raspberry-pi-4", "raspberry-pi-5")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits example as .tflite, built by the real compiler."""
    folder = tmp_path_factory.mktemp("digits-tflite")
    write_splits(folder)
    words = ["build", str(DIGITS / "digits_float.onnx"), "--name", "digits", "--version", "1.0.0"]
    words += ["--preprocess", str(DIGITS / "preprocess.toml"), "--max-drop-pp", "1.5"]
    words += ["--format", "tflite", "--effort", "fast"]
    for target in TARGETS:
        words += ["--target", target]
    for split in ("calibration", "selection", "test"):
        words += [f"--{split}", str(folder / f"{split}.npz")]
    with pytest.raises(SystemExit) as ended:
        main.main([*words, "--out", str(folder / "out")])
    assert ended.value.code == 0
    return folder / "out" / "bundle"


@pytest.mark.parametrize("target", TARGETS)
def test_golden_vectors_agree_on_the_board_in_litert(
    target: str, bundle: Path, tmp_path: Path
) -> None:
    board = emulate(load_profile(target), tmp_path, "ai-edge-litert")
    found = json.loads(board.run(PROBE, bundle, target))
    print(f"{target}: difference {found['difference_max']:.3g}, tolerance {found['tolerance']:.3g}")
    assert found["machine"] == "aarch64"
    assert found["runs_on"] == "ai-edge-litert"
    assert found["passed"], found["sentence"]
    assert not found["wrong_passed"], "the golden check cannot fail there"
