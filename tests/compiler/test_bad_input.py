"""Bad input and interrupts: one clear error, the right code, nothing half written."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.compiler.conftest import Command, Small
from tests.compiler.models import frames, write_npz


def damaged(small: Small, folder: Path, kind: str) -> dict[str, str | Path]:
    """The options of a build with one fault."""
    x, y = frames(80, 31)
    path = folder / "bad"
    if kind == "truncated model":
        path.write_bytes(small.model.read_bytes()[:900])
        return {"model": path}
    if kind == "not a model":
        path.write_text("hello")
        return {"model": path}
    if kind == "no model":
        return {"model": path}
    if kind == "wrong shape":
        return {"calibration": write_npz(folder / "bad.npz", x=x[:, 1:], y=y)}
    if kind == "wrong dtype":
        return {"calibration": write_npz(folder / "bad.npz", x=x.astype(np.float64), y=y)}
    if kind == "test of another dtype":
        return {"test": write_npz(folder / "bad.npz", x=x.astype(np.uint8), y=y)}
    if kind == "nan":
        x[7, 0, 0, 0] = np.nan
        return {"calibration": write_npz(folder / "bad.npz", x=x, y=y)}
    if kind == "one sample":
        return {"calibration": write_npz(folder / "bad.npz", x=x[:1], y=y[:1])}
    if kind == "constant":
        return {"calibration": write_npz(folder / "bad.npz", x=np.ones_like(x), y=y)}
    if kind == "labels out of range":
        return {"test": write_npz(folder / "bad.npz", x=x, y=y + 1)}
    if kind == "calibration labels out of range":
        return {"calibration": write_npz(folder / "bad.npz", x=x, y=y - 1)}
    if kind == "test is calibration":
        return {"test": small.calibration}
    if kind == "test is selection":
        return {"selection": small.test}
    if kind == "no test file":
        return {"test": folder / "none.npz"}
    if kind == "too few labels":
        path.write_text("a\nb\n")
        return {"labels": path}
    if kind == "bad contract":
        path.write_text("kind = 'image'")
        return {"preprocess": path}
    if kind == "unknown target":
        return {"target": "toaster"}
    if kind == "target by its nickname":
        return {"target": "pi4"}
    if kind == "bad name":
        return {"name": "My Model"}
    if kind == "bad version":
        return {"version": "v1"}
    assert kind == "bad limit"
    return {"max_drop_pp": "0"}


@pytest.mark.parametrize(
    ("kind", "code", "message"),
    [
        ("truncated model", 1, "cut short"),
        ("not a model", 1, "not an ONNX file"),
        ("no model", 3, "no model file"),
        ("wrong shape", 1, "expected a model input of shape [12, 12, 1], got [11, 12, 1]"),
        ("wrong dtype", 1, "x is float64"),
        ("test of another dtype", 1, "test data are uint8, calibration data float32"),
        ("nan", 1, "NaN"),
        ("one sample", 1, "1 sample; at least 20"),
        ("constant", 1, "constant inputs"),
        ("labels out of range", 1, "labels out of range"),
        ("calibration labels out of range", 1, "labels out of range"),
        ("test is calibration", 1, "test samples are calibration samples"),
        ("test is selection", 1, "test samples are selection samples"),
        ("no test file", 3, "no test file"),
        ("too few labels", 1, "2 names, but the model has 4 classes"),
        ("bad contract", 1, "height_px"),
        ("unknown target", 3, "no device profile 'toaster'"),
        ("target by its nickname", 3, "did you mean raspberry-pi-4?"),
        ("bad name", 2, "--name 'My Model'"),
        ("bad version", 2, "--version 'v1'"),
        ("bad limit", 2, "--max-drop-pp"),
    ],
)
def test_bad_input_is_one_clear_error_and_writes_nothing(
    small: Small, edge_compile: Command, tmp_path: Path, kind: str, code: int, message: str
) -> None:
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    changed = damaged(small, folder, kind)
    ended = edge_compile(small.arguments(out, "--json", **changed))
    assert ended.code == code
    assert set(ended.json) == {"error", "code", "hint", "docs"}
    assert ended.json["code"] == code
    assert message in ended.json["error"]
    assert not out.exists()
    plain = edge_compile(small.arguments(out, **changed))
    assert plain.code == code
    assert plain.stdout == ""
    assert message in plain.stderr
    assert "Traceback" not in plain.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["--json", "build"],
        ["build", "m.onnx", "--json"],
        ["build", "m.onnx", "--json", "--max-drop-pp", "much"],
        ["nonsense", "--json"],
        ["run", "bundle", "--json", "--threads", "0"],
    ],
)
def test_wrong_usage_is_code_2_and_json_where_asked(
    edge_compile: Command, words: list[str]
) -> None:
    ended = edge_compile(words)
    assert ended.code == 2
    assert ended.json["code"] == 2
    assert "--help" in ended.json["hint"]


def test_help_is_quick_and_imports_no_runtime(tmp_path: Path) -> None:
    program = (
        "import sys, compiler.cli\n"
        "heavy = {'onnx', 'onnxruntime', 'numpy', 'rich', 'jinja2', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


def test_an_earlier_result_survives_a_build_with_bad_input(
    small: Small, built: Path, edge_compile: Command
) -> None:
    before = (built / "report.json").read_bytes()
    assert edge_compile(small.arguments(built, version="x")).code == 2
    assert edge_compile(small.arguments(built, test=small.calibration)).code == 1
    assert (built / "report.json").read_bytes() == before
    assert (built / "bundle").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_written(
    small: Small, tmp_path: Path, number: signal.Signals
) -> None:
    # Many samples, so that there is time to interrupt.
    x, y = frames(50_000, 41)
    test = write_npz(tmp_path / "test.npz", x=x, y=y)
    out = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-m", "compiler.cli", *small.arguments(out, "--json", test=test)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A shell starts background jobs, CI among them, with SIGINT ignored; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stderr is not None
    assert process.stdout is not None
    for line in process.stderr:
        if "test samples in float" in line:
            break
    process.send_signal(number)
    stdout = process.stdout.read()
    assert process.wait(60) == 130
    assert json.loads(stdout)["error"] == "interrupted; nothing was written"
    assert not out.exists()
