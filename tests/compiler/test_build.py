"""``edge-compile build`` from end to end: reports, the bundle, the gate, the same bytes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from edge_contract.codec import decode_json
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, decode_model_manifest
from edge_contract.reference import DriftReference
from tests.compiler.conftest import Command, Small
from tests.compiler.models import SIDE, frames, small_cnn, write_npz

KEYS = {
    "verdict", "reason", "n", "flips_lost", "flips_gained", "drop_upper_pp", "agreement",
    "duration_s", "bundle_digest", "float", "int8", "bytes", "int8_ops",
}  # fmt: skip


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


# --- the gate --------------------------------------------------------------------------------


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


# --- the same inputs, the same bytes ---------------------------------------------------------


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
