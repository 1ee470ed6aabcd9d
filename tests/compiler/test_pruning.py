"""Pruning as a user meets it: options, what is told, what the bundle holds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import numpy_helper

from compiler.prune.stage import expected_flips, verdict
from device_configs.loader import load_profile
from edge_contract.codec import decode_json
from edge_contract.layout import BundleDir
from tests.compiler.conftest import Command, Small
from tests.compiler.models import residual_cnn, write_npz
from tests.compiler.task_models import regressor, vectors


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """A board whose fast kernels come in fours, so that small models have something to give."""
    text = (Path(__file__).parents[2] / "device_configs/profiles/generic-arm64.toml").read_text()
    path = tmp_path / "fours.toml"
    text = text.replace('id = "generic-arm64"', 'id = "fours"')
    path.write_text(text.replace("channel_step = 16", "channel_step = 4"))
    assert load_profile(str(path)).channel_step == 4
    return path


def test_a_share_of_the_macs_goes_and_the_gate_compares_with_the_source(
    small: Small, edge_compile: Command, tmp_path: Path, board: Path
) -> None:
    plain = edge_compile(small.arguments(tmp_path / "plain", "--json", target=board)).json
    words = small.arguments(
        tmp_path / "out", "--json", target=board, prune="0.2", max_drop_pp="20", effort="fast"
    )
    ended = edge_compile(words)
    report, told = ended.json, ended.json["pruning"]
    assert ended.code == 0
    assert plain["pruning"] is None
    assert told["asked"] == "0.2"
    assert told["step"] == 4
    assert told["reason"] == ""
    assert told["macs"]["after"] <= 0.8 * told["macs"]["before"]
    assert told["macs"]["before"] == plain["int8_ops"]["macs"]
    assert report["int8_ops"]["macs"] == told["macs"]["after"]
    assert report["int8_ops"]["expected"] == report["int8_ops"]["seen"] == 4
    # The yardstick is the model that was handed in, not the pruned one.
    assert report["float"] == plain["float"]
    assert report["bytes"]["int8"] < plain["bytes"]["int8"]
    kept = {row["name"]: row["channels_after"] for row in told["layers"]}
    assert set(kept) == {"n/c1", "n/c3", "n/logits"}
    assert all(count % 4 == 0 for count in kept.values())
    assert min(kept["n/c1"] / 16, kept["n/c3"] / 32) < 1
    assert "ranking the channels" in ended.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert ">Pruning</h2>" in page
    bundle = BundleDir(tmp_path / "out" / "bundle")
    evidence = decode_json(bundle.read_file("evidence.json"), dict, what="evidence")
    assert evidence["pruning"]["macs"] == told["macs"]
    assert evidence["lineage"]["options"]["prune"] == "0.2"
    assert b"n/c1" not in bundle.read_file("evidence.json")
    assert b"Pruned before it was quantised" in bundle.read_file("model-card.md")


def test_automatic_pruning_takes_more_where_more_may_be_lost(
    small: Small, edge_compile: Command, tmp_path: Path, board: Path
) -> None:
    found = []
    for limit in ("0.3", "30"):
        words = small.arguments(
            tmp_path / limit, "--json", target=board, prune="auto", effort="fast",
            selection=small.selection, max_drop_pp=limit,
        )  # fmt: skip
        found.append(edge_compile(words).json["pruning"])
    careful, bold = found
    assert careful["macs"]["after"] == careful["macs"]["before"]
    assert "even the smallest step costs too much" in careful["reason"]
    assert bold["macs"]["after"] < bold["macs"]["before"]


def test_that_nothing_can_go_is_said_and_the_build_goes_on(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    onnx.save(residual_cnn(), model)
    ended = edge_compile(
        small.arguments(tmp_path / "out", model=model, prune="0.3", max_drop_pp="30", effort="fast")
    )
    assert ended.code == 0
    assert "no group of channels is wider than the targets' step of 16" in ended.stdout
    assert "0.0% of the MACs went, not 30.0%" in ended.stdout
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["pruning"]["agreement"] == 1


@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_pruned_bundle_has_the_same_bytes_however_it_is_made(
    small: Small, edge_compile: Command, tmp_path: Path, board: Path, threads: str
) -> None:
    digests = []
    for name, workers in (("first", "1"), ("second", threads)):
        words = small.arguments(
            tmp_path / name, "--json", target=board, prune="0.2", threads=workers,
            max_drop_pp="20", effort="fast",
        )  # fmt: skip
        digests.append(edge_compile(words).json["bundle_digest"])
    assert digests[0] == digests[1] is not None


@pytest.mark.parametrize("wrong", ["0", "1", "-0.2", "1.5", "20%", "nan", "on", "", "0.2.1"])
def test_a_share_that_is_none_is_refused_and_never_read_as_off(
    small: Small, edge_compile: Command, tmp_path: Path, wrong: str
) -> None:
    ended = edge_compile([*small.arguments(tmp_path / "out"), f"--prune={wrong}"])
    assert ended.code == 2
    assert "--prune" in ended.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("target", "sparsity"),
    [("raspberry-pi-4", "2:4"), ("jetson-nano", "2:4"), ("jetson-orin-nano", "1:4")],
)
def test_2_4_zeros_are_refused_where_they_do_not_pay(
    small: Small, edge_compile: Command, tmp_path: Path, target: str, sparsity: str
) -> None:
    ended = edge_compile(small.arguments(tmp_path / "out", target=target, sparsity=sparsity))
    assert ended.code == 2
    assert "--sparsity" in ended.stderr


def test_2_4_zeros_are_still_zeros_in_the_int8_file(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    ended = edge_compile(
        small.arguments(
            tmp_path / "out", "--json", target="jetson-orin-nano", sparsity="2:4", max_drop_pp="30"
        )
    )
    assert ended.code == 0
    assert ended.json["pruning"]["sparsity"] == {"asked": "2:4", "layers": 2}
    assert not any("2:4" in warning for warning in ended.json["warnings"])
    bundle = BundleDir(tmp_path / "out" / "bundle")
    seen = 0
    for layer in bundle.manifest.layers:
        if not layer.path.endswith(".onnx"):
            continue
        graph = onnx.load_model_from_string(bundle.read_file(layer.path)).graph
        weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        for values in weights.values():
            if values.dtype == np.int8 and values.shape == (32, 16, 1, 1):
                fours = values.reshape(32, 4, 4)
            elif values.dtype == np.int8 and values.shape == (32, 4):
                fours = values.T.reshape(4, 8, 4)
            else:
                continue
            seen += 1
            assert (np.count_nonzero(fours, axis=-1) <= 2).all()
            assert np.count_nonzero(fours) > 0.4 * fours.size
    assert seen == 2


def test_expected_flips_see_finer_than_one_sample() -> None:
    random = np.random.default_rng(4)
    wanted = random.normal(0, 2, (4000, 5)).astype(np.float32)
    given = wanted + random.normal(0, 0.05, wanted.shape).astype(np.float32)
    y = wanted.argmax(axis=1)
    y[::10] = wanted[::10].argsort(axis=1)[:, -2]
    truth = float((wanted.argmax(axis=1) != given.argmax(axis=1)).mean())
    few = [expected_flips(wanted[i : i + 40], given[i : i + 40], y[i : i + 40]) for i in
           range(0, 4000, 40)]  # fmt: skip
    lost, gained = (np.array(column) for column in zip(*few, strict=True))
    counted = (wanted.argmax(axis=1) != given.argmax(axis=1)).reshape(100, 40).mean(axis=1)
    assert (lost + gained).mean() == pytest.approx(truth, rel=0.25)
    assert (lost + gained).std() < 0.8 * counted.std()
    assert 0 < gained.mean() < lost.mean()


def test_without_labels_every_flip_counts_as_lost() -> None:
    wanted = np.array([[1, 0], [0, 1], [3, 0]], np.float32)
    given = np.array([[0, 1], [0, 1], [3, 0]], np.float32)
    lost, gained = expected_flips(wanted, given, None)
    assert lost > 0
    assert gained == 0
    assert expected_flips(wanted, wanted, None) == (0, 0)


@pytest.mark.parametrize(
    ("lost", "gained", "tests", "words"),
    [
        (0.0, 0.0, 1000, ""),
        (0.004, 0.002, 5000, ""),
        (0.006, 0.0, 5000, "more than 0.5 of the accepted drop"),
        (0.03, 0.03, 300, "more than 0.5 of the accepted drop"),
        (0.004, 0.004, 350, "350 test samples could then prove"),
        (0.0, 0.0, 100, "100 test samples could then prove"),
    ],
)
def test_what_is_accepted_leaves_half_of_the_drop_to_int8_and_can_be_proven(
    lost: float, gained: float, tests: int, words: str
) -> None:
    told = verdict(lost, gained, tests, 0.01)
    assert words in told
    assert bool(told) == bool(words)


@pytest.mark.parametrize("task", ["embedding", "regression", "classification"])
def test_automatic_pruning_asks_the_metric_that_the_gate_judges(
    edge_compile: Command, tmp_path: Path, board: Path, task: str
) -> None:
    model = regressor(outputs=8)
    onnx.save(model, tmp_path / "model.onnx")
    session = ort.InferenceSession(model.SerializeToString())
    for name, rows, seed in (("calibration", 160, 1), ("test", 300, 2)):
        x = vectors(rows, seed)
        (y,) = session.run(None, {"x": x})
        noise = np.random.default_rng(seed).normal(0, 0.3, y.shape)
        truth = {"y": (y + noise).astype(np.float32)} if task == "regression" else {}
        write_npz(tmp_path / f"{name}.npz", x=x, **truth)
    after = []
    for loose in (True, False):
        limits = {
            "min-cosine": "0.8" if loose else "0.9999",
            "max-error-increase": "80" if loose else "0.5",
            "max-drop-pp": "90",  # the test data name no classes
        }
        words = ["build", str(tmp_path / "model.onnx"), "--name", "m", "--version", "1.0.0"]
        words += ["--target", str(board), "--task", task, "--prune", "auto", "--effort", "fast"]
        for role in ("calibration", "test"):
            words += [f"--{role}", str(tmp_path / f"{role}.npz")]
        for option, limit in limits.items():
            words += [f"--{option}", limit]
        told = edge_compile([*words, "--out", str(tmp_path / "out"), "--json"]).json["pruning"]
        after.append(told["macs"]["after"] / told["macs"]["before"])
    assert after[0] < 0.9
    assert after[1] == 1
    assert "selection samples the" in told["reason"]
    assert "0.5 of what is accepted" in told["reason"]
