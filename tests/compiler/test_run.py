"""``edge-compile run``: the scores that the build proved, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edge_contract.layout import BundleDir, pack_tar
from tests.compiler.conftest import Command, Small
from tests.compiler.models import CLASSES, write_npz


def test_run_gives_the_scores_that_the_build_proved(
    small: Small, built: Path, edge_compile: Command, tmp_path: Path
) -> None:
    out = tmp_path / "scores.npz"
    words = ["run", str(built / "bundle"), "--target", "raspberry-pi-4"]
    ended = edge_compile([*words, "--inputs", str(small.test), "--out", str(out), "--json"])
    assert ended.code == 0
    assert ended.json["rows"] == 500
    scores = np.load(out, allow_pickle=False)["y"]
    assert scores.dtype == np.float32
    assert scores.shape == (500, CLASSES)
    report = json.loads((built / "report.json").read_text())
    y = np.load(small.test)["y"]
    assert (scores.argmax(1) == y).mean() == pytest.approx(report["int8"]["accuracy"])
    pack_tar(BundleDir(built / "bundle"), tmp_path / "bundle.tar")
    words[1] = str(tmp_path / "bundle.tar")
    again = tmp_path / "again.npz"
    edge_compile([*words, "--inputs", str(small.test), "--out", str(again), "--threads", "2"])
    assert again.read_bytes() == out.read_bytes()


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        ("no bundle", 3, "no bundle at"),
        ("other target", 1, "no variant for 'generic-x86-64'"),
        ("tampered", 4, "digest differs"),
        ("wrong shape", 1, "row 0"),
        ("no inputs", 3, "no inputs file"),
        ("no place", 1, "cannot write"),
    ],
)
def test_run_refuses_bad_bundles_and_inputs(
    small: Small,
    built: Path,
    edge_compile: Command,
    tmp_path: Path,
    fault: str,
    code: int,
    message: str,
) -> None:
    bundle, target, inputs = built / "bundle", "raspberry-pi-4", small.test
    out = tmp_path / "y.npz"
    if fault == "no bundle":
        bundle = tmp_path / "none"
    elif fault == "other target":
        target = "generic-x86-64"
    elif fault == "tampered":
        bundle = tmp_path / "bundle"
        digest = BundleDir(built / "bundle").manifest.layer("onnx-s8s8/model.onnx").digest
        for path in (built / "bundle").rglob("*"):
            if path.is_file():
                copy = bundle / path.relative_to(built / "bundle")
                copy.parent.mkdir(parents=True, exist_ok=True)
                data = bytearray(path.read_bytes())
                if copy.name == digest.removeprefix("sha256:"):
                    data[len(data) // 2] ^= 1
                copy.write_bytes(data)
    elif fault == "wrong shape":
        inputs = write_npz(tmp_path / "x.npz", x=np.zeros((3, 5, 5, 1), np.float32))
    elif fault == "no inputs":
        inputs = tmp_path / "none.npz"
    else:
        out = tmp_path / "none" / "y.npz"
    words = ["run", str(bundle), "--target", target, "--inputs", str(inputs), "--out", str(out)]
    ended = edge_compile([*words, "--json"])
    assert ended.code == code
    assert message in ended.json["error"]
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "expected", "next_step"),
    [
        (["compare", "model.onnx", "X"], "--out directory of a build", "edge-compile inspect"),
        (["run", "model.onnx"], "expected a bundle", "edge-compile build model.onnx"),
        (["run", "other.tflite", "--target", "pi4"], "expected a bundle", "edge-compile run DIR"),
    ],
)
def test_a_model_where_a_build_is_expected_names_the_command_for_it(
    edge_compile: Command, words: list[str], expected: str, next_step: str
) -> None:
    ended = edge_compile([*words, "--json"])
    assert ended.code == 2
    assert "is a model file" in ended.json["error"]
    assert expected in ended.json["error"]
    assert next_step in ended.json["hint"]
