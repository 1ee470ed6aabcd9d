"""The command line from end to end: reports, exit codes, errors, and what is left on disk."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

from compiler.cli import main
from edge_contract.codec import decode_json
from edge_contract.layout import BundleDir, pack_tar
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_contract.reference import DriftReference
from tests.compiler.conftest import Ended, Small
from tests.compiler.models import CLASSES, SIDE, frames, small_cnn, write_npz

Command = Callable[[list[str]], Ended]

KEYS = {
    "verdict", "reason", "n", "flips_lost", "flips_gained", "drop_upper_pp", "agreement",
    "duration_s", "bundle_digest", "float", "int8", "bytes", "int8_ops",
}  # fmt: skip


@pytest.fixture(scope="module")
def built(small: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("built")
    with pytest.raises(SystemExit) as ended:
        main.main(small.arguments(out))
    assert ended.value.code == 0
    return out


def test_a_build_passes_and_reports_what_it_proved(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    ended = edge_compile(small.arguments(tmp_path / "out", "--json"))
    assert ended.code == 0
    report = ended.json
    assert report == json.loads((tmp_path / "out" / "report.json").read_text())
    assert set(report) >= KEYS
    assert report["verdict"] == "pass"
    assert report["n"] == 500
    assert report["drop_upper_pp"] <= 3
    assert 0.9 < report["int8"]["accuracy"] <= 1
    assert 0.9 < report["agreement"] <= 1
    difference = report["float"]["accuracy"] - report["int8"]["accuracy"]
    assert (report["flips_lost"] - report["flips_gained"]) / 500 == pytest.approx(difference)
    assert report["int8_ops"]["expected"] == report["int8_ops"]["seen"] == 4
    assert report["int8_ops"]["macs_share"] == 1
    assert report["bytes"]["float"] == small.model.stat().st_size
    bundle = BundleDir(tmp_path / "out" / "bundle")
    assert report["bundle_digest"] == bundle.digest
    bundle.verify()
    assert set(report["targets"]) == {"raspberry-pi-4"}
    assert set(report["targets"]["raspberry-pi-4"]) >= KEYS
    assert "calibrating" in ended.stderr


def test_the_bundle_holds_what_devices_and_people_need(built: Path) -> None:
    bundle = BundleDir(built / "bundle")
    assert sorted(layer.path for layer in bundle.manifest.layers) == [
        "drift-reference.msgpack",
        "evidence.json",
        "model-card.md",
        "model.json",
        "onnx-s8s8/golden.msgpack",
        "onnx-s8s8/model.onnx",
    ]
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert manifest.labels == ["0", "1", "2", "3"]
    assert manifest.inputs[0].shape == [None, SIDE, SIDE, 1]
    reference = DriftReference.decode(bundle.read_file("drift-reference.msgpack"))
    assert reference.class_ids == (0, 1, 2, 3)
    assert "| raspberry-pi-4 | s8s8 |" in bundle.read_file("model-card.md").decode()


def test_nothing_in_the_bundle_names_time_path_machine_or_digest(built: Path, small: Small) -> None:
    bundle = BundleDir(built / "bundle")
    evidence = decode_json(bundle.read_file("evidence.json"), dict, what="evidence")
    assert set(evidence) == {"schema", "name", "version", "lineage", "targets"}
    for layer in bundle.manifest.layers:
        data = bundle.read_file(layer.path)
        for word in (str(small.folder), str(built), bundle.digest, os.uname().nodename, "n/c1"):
            # What is searched for must not be a chance match in a few bytes of weights.
            if len(word) >= 4:
                assert word.encode() not in data, (layer.path, word)


def test_two_targets_of_two_schemes_stand_in_one_bundle(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    words = small.arguments(
        tmp_path, "--target", "raspberry-pi-5", "--target", "generic-x86-64", "--json"
    )
    ended = edge_compile(words)
    assert ended.code == 0
    assert list(ended.json["targets"]) == ["raspberry-pi-4", "raspberry-pi-5", "generic-x86-64"]
    bundle = BundleDir(tmp_path / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert [v.scheme for v in manifest.variants] == ["s8s8", "s8s8", "u8s8"]
    assert len([x for x in bundle.manifest.layers if x.path.endswith(".onnx")]) == 2


def test_selection_and_labels_files_are_used(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("wide\ntall\nfine\nflat\n")
    ended = edge_compile(
        small.arguments(tmp_path / "out", "--json", selection=small.selection, labels=labels)
    )
    assert ended.code == 0
    assert [row["label"] for row in ended.json["classes"]] == ["wide", "tall", "fine", "flat"]
    assert ended.json["lineage"]["options"]["selection"].startswith("sha256:")


def test_the_preprocessing_contract_travels_and_is_executed(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    # The same model, fed from pixels of twice the size with its scale in the contract.
    contract = tmp_path / "preprocess.toml"
    contract.write_text(
        f'kind = "image"\ncolour = "GRAY"\nheight_px = {SIDE}\nwidth_px = {SIDE}\nresize = "area"\n'
    )
    for name, rows, seed in (("calibration", 60, 21), ("test", 400, 22)):
        x, y = frames(rows, seed)
        pixels = np.repeat(np.repeat(x.round().astype(np.uint8), 2, axis=1), 2, axis=2)
        write_npz(tmp_path / f"{name}.npz", x=pixels, y=y)
    ended = edge_compile(
        small.arguments(
            tmp_path / "out",
            "--json",
            calibration=tmp_path / "calibration.npz",
            test=tmp_path / "test.npz",
            preprocess=contract,
        )
    )
    assert ended.code == 0
    assert ended.json["float"]["accuracy"] > 0.9
    bundle = BundleDir(tmp_path / "out" / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    assert manifest.preprocess.resize == "area"
    reference = DriftReference.decode(bundle.read_file("drift-reference.msgpack"))
    assert "brightness" in reference.features


@pytest.mark.parametrize(("opset", "batch"), [(11, "batch"), (13, 1), (17, 4)])
def test_old_opsets_and_fixed_batches_build(
    small: Small, edge_compile: Command, tmp_path: Path, opset: int, batch: int | str
) -> None:
    onnx.save(small_cnn(opset=opset, batch=batch), tmp_path / "m.onnx")
    ended = edge_compile(small.arguments(tmp_path / "out", "--json", model=tmp_path / "m.onnx"))
    assert ended.code == 0
    assert ended.json["int8_ops"]["seen"] == 4


# --- the gate


def test_too_few_samples_is_its_own_verdict_and_leaves_no_bundle(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    ended = edge_compile(small.arguments(tmp_path, "--json", max_drop_pp="0.05"))
    assert ended.code == 5
    report = ended.json
    assert report["verdict"] == "insufficient"
    assert report["bundle_digest"] is None
    assert not (tmp_path / "bundle").exists()
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert "INSUFFICIENT DATA" in (tmp_path / "report.html").read_text()


def test_a_real_drop_fails_and_takes_an_older_bundle_away(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    assert edge_compile(small.arguments(tmp_path)).code == 0
    assert (tmp_path / "bundle").exists()
    # Calibrated on darkness: every range is far too narrow.
    x, y = frames(80, 11)
    dark = write_npz(tmp_path / "dark.npz", x=x / 50, y=y)
    ended = edge_compile(small.arguments(tmp_path, "--json", calibration=dark))
    assert ended.code == 5
    assert ended.json["verdict"] == "fail"
    assert any("earlier build was removed" in w for w in ended.json["warnings"])
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dark.npz",
        "report.html",
        "report.json",
        "sbom.json",
    ]


def test_the_terminal_summary_ends_in_the_verdict(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    passed = edge_compile(small.arguments(tmp_path))
    assert passed.stdout.splitlines()[-1].startswith("PASS: ")
    failed = edge_compile(small.arguments(tmp_path, max_drop_pp="0.05"))
    assert failed.stdout.splitlines()[-1].startswith("FAIL (insufficient data): ")


# --- the same inputs, the same bytes


def test_two_runs_two_directories_and_two_threads_give_the_same_bundle(
    small: Small, built: Path, edge_compile: Command, tmp_path: Path
) -> None:
    first = BundleDir(built / "bundle").digest
    again = edge_compile(small.arguments(built, "--json"))
    assert again.json["bundle_digest"] == first
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for path in (small.model, small.calibration, small.test):
        (elsewhere / f"my-{path.name}").write_bytes(path.read_bytes())
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd()), "OMP_NUM_THREADS": "1"}
    words = small.arguments(
        Path("out"),
        "--json",
        "--threads",
        "2",
        model="my-model.onnx",
        calibration="my-calibration.npz",
        test="my-test.npz",
    )
    other = subprocess.run(
        [sys.executable, "-m", "compiler.cli", *words],
        cwd=elsewhere,
        env={**environment, "PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo"},
        capture_output=True,
        check=True,
    )
    assert json.loads(other.stdout)["bundle_digest"] == first
    ours = {
        p.relative_to(built): p.read_bytes() for p in (built / "bundle").rglob("*") if p.is_file()
    }
    theirs = {
        p.relative_to(elsewhere / "out"): p.read_bytes()
        for p in (elsewhere / "out" / "bundle").rglob("*")
        if p.is_file()
    }
    assert ours == theirs


def test_another_version_limit_or_sample_gives_another_bundle(
    small: Small, built: Path, edge_compile: Command, tmp_path: Path
) -> None:
    digests = {BundleDir(built / "bundle").digest}
    for changed in ({"version": "1.0.1"}, {"max_drop_pp": "4"}, {"selection": small.selection}):
        ended = edge_compile(small.arguments(tmp_path, "--json", **changed))
        digests.add(ended.json["bundle_digest"])
    assert len(digests) == 4


# --- bad input: one clear error, the right code, nothing on disk


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


# --- run


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
