"""Builds of models that do other things than classify, from the command to the device's code."""

from __future__ import annotations

import html
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edge_contract.golden import decode_golden
from edge_contract.layout import BundleDir
from edge_contract.model import MODEL_FILE, ModelManifest, decode_model_manifest
from edge_contract.reference import DriftReference
from edge_runtime.golden import check_golden
from edge_runtime.session import ModelSession
from tests.compiler.conftest import Command, Ended
from tests.compiler.models import write_npz
from tests.compiler.task_models import (
    binary,
    branched,
    detector,
    looped,
    recurrent,
    regressor,
    scenes,
    two_ends,
    vectors,
)

Build = Callable[..., Ended]


@pytest.fixture
def built(tmp_path: Path, edge_compile: Command) -> Build:
    """Saves a model and its data and runs ``build``; ``tmp_path / "out"`` holds the result."""

    def run(
        model: onnx.ModelProto, calibration: dict[str, Any], test: dict[str, Any], *more: str
    ) -> Ended:
        onnx.save(model, tmp_path / "model.onnx")
        write_npz(tmp_path / "calibration.npz", **calibration)
        write_npz(tmp_path / "test.npz", **test)
        words = ["build", str(tmp_path / "model.onnx"), "--name", "m", "--version", "1.0.0"]
        words += ["--target", "raspberry-pi-4", "--calibration", str(tmp_path / "calibration.npz")]
        words += ["--test", str(tmp_path / "test.npz"), "--out", str(tmp_path / "out")]
        return edge_compile([*words, "--effort", "fast", "--json", *more])

    return run


def loaded(folder: Path) -> tuple[ModelManifest, ModelSession]:
    """The bundle's variant, after its golden check has passed."""
    bundle = BundleDir(folder / "bundle")
    manifest = decode_model_manifest(bundle.read_file(MODEL_FILE), where="test")
    variant = manifest.variants[0]
    session = ModelSession(bundle.read_file(variant.file), manifest, variant)
    golden = decode_golden(bundle.read_file(variant.golden), where="test")
    assert check_golden(session, golden).passed
    return manifest, session


def answers(model: onnx.ModelProto, feeds: dict[str, Any]) -> list[Any]:
    return ort.InferenceSession(model.SerializeToString()).run(None, feeds)


def test_two_inputs_and_two_outputs_go_through_to_the_device(built: Build, tmp_path: Path) -> None:
    model = two_ends()

    def data(rows: int, seed: int) -> dict[str, Any]:
        feeds = {
            "left": vectors(rows, seed),
            "right": vectors(rows, seed + 50, 6).reshape(-1, 2, 3),
        }
        return {**feeds, "y": answers(model, feeds)[0].argmax(axis=1)}

    ended = built(model, data(60, 1), data(400, 2), "--max-drop-pp", "6")
    assert ended.code == 0, ended.stderr + ended.stdout
    report = ended.json
    assert report["metric"] == "top-1"
    assert {one["name"] for one in report["outputs"]} == {"scores", "vector"}
    assert all(one["cosine"] > 0.99 for one in report["outputs"])
    manifest, session = loaded(tmp_path / "out")
    assert [spec.name for spec in manifest.inputs] == ["left", "right"]
    assert len(manifest.labels) == 4
    frame = np.concatenate([vectors(1, 9)[0], vectors(1, 10, 6)[0]])
    prediction = session.predict(frame)
    feeds = {"left": frame[None, :12], "right": frame[12:].reshape(1, 2, 3)}
    expected = np.concatenate([part.ravel() for part in answers(model, feeds)])
    assert prediction.scores == pytest.approx(expected, abs=0.15)
    assert prediction.class_id == prediction.scores[:4].argmax()


def test_missing_input_arrays_are_named(built: Build) -> None:
    x = vectors(40, 1)
    ended = built(two_ends(), {"left": x}, {"left": x, "y": np.zeros(40, np.int64)})
    assert ended.code == 1
    assert "'left', 'right'" in ended.json["error"]


def test_a_constant_input_is_named(built: Build) -> None:
    model = two_ends()

    def data(rows: int, seed: int) -> dict[str, Any]:
        return {"left": vectors(rows, seed), "right": np.ones((rows, 2, 3), np.float32)}

    ended = built(model, data(60, 1), data(100, 2), "--task", "embedding")
    assert any("input 'right' is constant" in warning for warning in ended.json["warnings"])


def test_a_regression_passes_on_its_error_and_fails_on_a_tight_limit(
    built: Build, tmp_path: Path
) -> None:
    model = regressor()
    x, held = vectors(80, 1), vectors(500, 2)
    truth = answers(model, {"x": held})[0][:, 0]
    truth = truth + np.random.default_rng(0).normal(0, 0.3, 500).astype(np.float32)
    ended = built(model, {"x": x}, {"x": held, "y": truth}, "--task", "regression")
    report = ended.json
    assert ended.code == 0, report["reason"]
    assert report["metric"] == "error"
    assert report["float"]["accuracy"] is None
    assert 0.2 < report["float"]["mae"] < report["int8"]["mae"] * 1.1
    assert report["error_increase_upper_percent"] <= 5
    assert report["agreement"] is None
    assert report["flips"] is None
    _, session = loaded(tmp_path / "out")
    prediction = session.predict(held[0])
    assert prediction.value == pytest.approx(float(prediction.scores[0]))
    assert prediction.class_id is None
    reference = DriftReference.decode(
        BundleDir(tmp_path / "out" / "bundle").read_file("drift-reference.msgpack")
    )
    assert reference.features[-3:] == ("output_mean", "output_spread", "output_max")
    exact = answers(model, {"x": held})[0][:, 0]
    ended = built(
        model,
        {"x": x},
        {"x": held, "y": exact + np.float32(0.001)},
        *("--task", "regression"),
    )
    assert ended.code == 5
    assert ended.json["verdict"] == "fail"


@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_score_for_two_classes_is_a_classifier_all_the_way_to_the_device(
    built: Build,
    tmp_path: Path,
    edge_compile: Command,
    sigmoid: bool,
) -> None:
    model = binary(sigmoid=sigmoid)
    threshold = 0.5 if sigmoid else 0.0
    x, held = vectors(80, 1), vectors(400, 2)
    y = answers(model, {"x": held})[0] > threshold
    wrong = np.random.default_rng(3).random(400) < 0.05
    y[wrong] = ~y[wrong]
    # As Keras and PyTorch have them, and as plain ids.
    labels = y.astype(np.float32) if sigmoid else y[:, 0]
    names = tmp_path / "names.txt"
    names.write_text("empty\nperson\n")
    ended = built(
        model,
        {"x": x},
        {"x": held, "y": labels},
        *("--labels", str(names), "--max-drop-pp", "5", "--prune", "auto"),
        *("--target", "jetson-orin-nano"),
    )
    report = ended.json
    assert ended.code == 0, report
    assert len(report["targets"]) == 2
    for one in report["targets"].values():
        assert one["metric"] == "top-1"
        assert one["float"]["accuracy"] == pytest.approx(1 - wrong.mean())
        assert one["agreement"] >= 0.98
        counts = [int((~y).sum()), int(y.sum())]
        assert [(row["label"], row["n"]) for row in one["classes"]] == list(
            zip(["empty", "person"], counts, strict=True)
        )
    said = f"a {'probability' if sigmoid else 'logit'}: above {threshold:g} the class is 'person'"
    assert said in (tmp_path / "out" / "report.html").read_text().replace("&#39;", "'")
    manifest, session = loaded(tmp_path / "out")
    assert manifest.single_score == ("probability" if sigmoid else "logit")
    named = [session.predict(frame) for frame in held[:100]]
    assert [one.class_id for one in named] == [int(one.scores[0] > threshold) for one in named]
    assert all(0.5 <= float(one.confidence or 0) <= 1 for one in named)
    data = BundleDir(tmp_path / "out" / "bundle").read_file("drift-reference.msgpack")
    reference = DriftReference.decode(data)
    assert reference.features[-3:] == ("confidence", "entropy", "margin")
    assert reference.class_ids == (0, 1)
    assert min(reference.counts[-1][:2]) > 0
    scores = tmp_path / "scores.npz"
    words = ["run", str(tmp_path / "out" / "bundle"), "--target", "raspberry-pi-4", "--json"]
    ran = edge_compile([*words, "--inputs", str(tmp_path / "test.npz"), "--out", str(scores)])
    assert (ran.json["values"], ran.json["classes"]) == (1, 2)
    found = np.load(scores)["y"]
    assert found.shape == (400, 1)
    assert ((found > threshold) == y).mean() == pytest.approx(report["int8"]["accuracy"])


def test_probabilities_without_a_sigmoid_and_other_labels_are_told_apart(built: Build) -> None:
    model = binary(sigmoid=True)
    # The same function; no operator that says so ends it.
    model.graph.node.append(helper.make_node("Mul", ["y", "one"], ["p"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(1, np.float32), "one"))
    model.graph.output[0].name = "p"
    x, held = {"x": vectors(80, 1)}, vectors(300, 2)
    y = (answers(model, {"x": held})[0][:, 0] > 0.5).astype(np.int64)
    report = built(model, x, {"x": held, "y": y}, "--max-drop-pp", "5").json
    assert report["float"]["accuracy"] == 1
    assert not any("read as a logit" in warning for warning in report["warnings"])
    ended = built(model, x, {"x": held, "y": y * 2})
    assert (ended.code, "cannot tell" in ended.json["error"]) == (2, True)
    ended = built(model, x, {"x": held, "y": 2 * y - 1}, "--task", "classification")
    assert "the model has classes 0 to 1" in ended.json["error"]
    ended = built(binary(sigmoid=False), x, {"x": held, "y": y[:, None] + 0.0})
    assert "cannot tell" in ended.json["error"]


def test_a_score_that_was_fitted_to_0_and_1_without_a_sigmoid_is_doubted(built: Build) -> None:
    model = binary(sigmoid=False)
    model.graph.node.append(helper.make_node("Add", ["z", "half"], ["s"]))
    model.graph.initializer.append(numpy_helper.from_array(np.full(1, 0.5, np.float32), "half"))
    model.graph.output[0].name = "s"
    held = vectors(300, 2)
    scores = answers(model, {"x": held})[0][:, 0]
    for threshold, found in ((0.5, 1), (0.0, 0)):
        y = (scores > threshold).astype(np.int64)
        report = built(model, {"x": vectors(80, 1)}, {"x": held, "y": y}, "--max-drop-pp", "5").json
        said = [warning for warning in report["warnings"] if "is read as a logit" in warning]
        assert len(said) == found, report["warnings"]
        assert all("above 0.5 it would be 100.0%" in one for one in said)


def test_a_detector_is_judged_by_map(built: Build, tmp_path: Path) -> None:
    x, _ = scenes(60, 1)
    held, truth = scenes(400, 2)
    ended = built(
        detector(), {"x": x}, {"x": held, "y": truth}, "--task", "detection", "--max-drop-pp", "4"
    )
    report = ended.json
    assert ended.code == 0, report["reason"]
    assert report["metric"] == "map"
    assert 0.3 < report["int8"]["map"] < 1
    assert abs(report["float"]["map"] - report["int8"]["map"]) < 0.03
    assert report["drop_pp"] < report["drop_upper_pp"]
    _, session = loaded(tmp_path / "out")
    prediction = session.predict(held[0])
    assert prediction.class_id is None
    assert prediction.value == float((held[0, [2, 6, 10]] * 0.1 >= 0.5).sum())


def test_without_labels_fidelity_alone_is_judged(built: Build) -> None:
    model = regressor(outputs=8)
    x, held = {"x": vectors(80, 1)}, {"x": vectors(100, 2)}
    ended = built(model, x, held)
    assert ended.code == 2
    assert "cannot tell what the model is for" in ended.json["error"]
    ended = built(model, x, held, "--task", "embedding")
    assert ended.code == 0
    assert ended.json["metric"] == "fidelity"
    assert ended.json["cosine_lower"] > 0.99
    assert ended.json["lineage"]["options"]["min_cosine"] == "0.99"
    ended = built(model, x, held, "--task", "embedding", "--min-cosine", "0.9999999")
    assert ended.code == 5


def test_top_k_is_told_and_never_worse_than_top_1(built: Build) -> None:
    model = two_ends()
    feeds = {"left": vectors(300, 3), "right": vectors(300, 4, 6).reshape(-1, 2, 3)}
    y = np.random.default_rng(0).integers(0, 4, 300)
    calibration = {"left": vectors(60, 5), "right": vectors(60, 6, 6).reshape(-1, 2, 3)}
    test = {**feeds, "y": y}
    one = built(model, calibration, test).json
    two = built(model, calibration, test, "--top-k", "2").json
    assert (one["metric"], two["metric"]) == ("top-1", "top-2")
    assert two["float"]["accuracy"] > one["float"]["accuracy"]


def test_a_top_k_that_every_answer_meets_is_refused(built: Build) -> None:
    model = two_ends()
    feeds = {"left": vectors(60, 3), "right": vectors(60, 4, 6).reshape(-1, 2, 3)}
    test = {
        "left": vectors(40, 5),
        "right": vectors(40, 6, 6).reshape(-1, 2, 3),
        "y": np.random.default_rng(0).integers(0, 4, 40),
    }
    ended = built(model, feeds, test, "--top-k", "4")
    assert ended.code == 2
    assert "--top-k 4: the model has 4 classes" in ended.json["error"]


@pytest.mark.parametrize("effort", ["normal", "thorough"])
def test_a_model_without_a_bias_is_searched_and_its_float_work_is_counted(
    built: Build, effort: str
) -> None:
    def data(rows: int, seed: int) -> dict[str, Any]:
        return {"x": vectors(rows, seed, 32).reshape(-1, 8, 4)}

    ended = built(recurrent(), data(60, 1), data(80, 2), "--task", "embedding", "--effort", effort)
    assert ended.code == 0, ended.json
    ops = ended.json["int8_ops"]
    assert (ops["expected"], ops["seen"]) == (1, 1)
    # Eight steps of 24 x 4 and 24 x 6, and 6 x 3 behind them.
    assert ops["macs"] == 8 * (24 * 4 + 24 * 6) + 18
    assert ops["left_float"] == [{"name": "cell", "op": "LSTM", "macs": 8 * 240}]
    assert ops["macs_share"] == pytest.approx(18 / ops["macs"], abs=1e-5)
    assert ops["not_counted"] == []
    assert any("LSTM 'cell' runs in float as planned" in said for said in ended.json["warnings"])


def test_what_multiplies_without_a_count_is_named_and_no_share_flatters(
    built: Build, tmp_path: Path, edge_compile: Command
) -> None:
    ended = built(looped(), {"x": vectors(60, 1)}, {"x": vectors(80, 2)}, "--task", "embedding")
    ops = ended.json["int8_ops"]
    assert ended.code == 0, ended.json
    assert (ops["expected"], ops["seen"], ops["macs_share"]) == (1, 1, None)
    # The dense layer, and the Einsum of two vectors of 8 with a matrix between them.
    assert ops["macs"] == 12 * 8 + 2 * 8 * 8
    assert [one["op"] for one in ops["left_float"]] == ["Einsum"]
    assert ops["not_counted"] == [{"name": "again", "op": "Loop", "holds": {"MatMul": 1}}]
    said = "Loop 'again' (1 MatMul)"
    assert any(said in warning for warning in ended.json["warnings"])
    assert "Not counted: " + said in html.unescape((tmp_path / "out" / "report.html").read_text())
    facts = edge_compile(["inspect", str(tmp_path / "model.onnx"), "--json"]).json
    # Without running it nobody knows the shape of what a Loop makes.
    assert (facts["macs"], facts["not_counted"]) == (None, [said])
    onnx.save(recurrent(), tmp_path / "cell.onnx")
    facts = edge_compile(["inspect", str(tmp_path / "cell.onnx"), "--json"]).json
    assert facts["macs"] == 8 * (24 * 4 + 24 * 6) + 18
    assert [one["weight_shape"] for one in facts["layers"]] == [[1, 24, 4], [6, 3]]


def test_layers_that_stand_in_branches_alone_are_refused(built: Build) -> None:
    model = branched()
    data = {"x": vectors(60, 1)}, {"x": vectors(80, 2)}
    ended = built(model, *data, "--task", "embedding")
    assert (ended.code, "outside of If, Loop and Scan" in ended.json["error"]) == (1, True)


def test_a_broken_budget_fails_with_its_own_reason(built: Build, tmp_path: Path) -> None:
    model = regressor(outputs=8)
    x, held = {"x": vectors(80, 1)}, {"x": vectors(100, 2)}
    ended = built(model, x, held, "--task", "embedding", "--max-size-kb", "1", "--max-mmacs", "9")
    assert ended.code == 5
    report = ended.json
    assert report["verdict"] == "fail"
    assert "size" in report["reason"]
    assert "--max-size-kb" in report["reason"]
    by_name = {one["name"]: one for one in report["budgets"]}
    assert by_name["size"]["broken"]
    assert not by_name["work"]["broken"]
    assert by_name["work"]["spent"] == pytest.approx((12 * 32 + 32 * 8) / 1e6)
    assert not by_name["RAM, estimated"]["broken"]
    assert not (tmp_path / "out" / "bundle").exists()


def test_other_plans_judged_by_the_same_test_data_are_counted(built: Build, tmp_path: Path) -> None:
    model = regressor(outputs=8)
    held = {"x": vectors(100, 77)}
    first = built(model, {"x": vectors(80, 1)}, held, "--task", "embedding")
    assert first.json["test_reuse"]["earlier_plans"] == 0
    digest = first.json["bundle_digest"]
    again = built(model, {"x": vectors(80, 1)}, held, "--task", "embedding")
    assert again.json["test_reuse"]["earlier_plans"] == 0
    other = built(model, {"x": vectors(80, 5)}, held, "--task", "embedding")
    assert other.json["test_reuse"]["earlier_plans"] == 1
    assert any("judged 1 other plan" in warning for warning in other.json["warnings"])
    # The bundle does not know of it: it is the same on any machine.
    back = built(model, {"x": vectors(80, 1)}, held, "--task", "embedding")
    assert back.json["test_reuse"]["earlier_plans"] == 1
    assert back.json["bundle_digest"] == digest


def test_half_precision_is_said_and_a_single_test_sample_is_insufficient(built: Build) -> None:
    model = regressor(outputs=8)
    for tensor in model.graph.initializer:
        half = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(half, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    ended = built(model, {"x": vectors(80, 1)}, {"x": vectors(1, 2)}, "--task", "embedding")
    assert any("(4 float16) were cast to float32" in said for said in ended.json["warnings"])
    assert ended.code == 5
    assert ended.json["verdict"] == "insufficient"
    assert ended.json["samples_needed"] == 30


@pytest.mark.parametrize(
    ("task", "y", "message"),
    [
        ("regression", np.zeros((100, 3)), "gives 8 values a sample"),
        ("classification", np.zeros(100), "expected whole class ids"),
        ("classification", np.full(100, 8), "labels out of range"),
        ("detection", np.zeros((100, 2, 5)), "a detector gives one output"),
    ],
)
def test_labels_that_do_not_fit_the_task_are_refused(
    built: Build, task: str, y: Any, message: str
) -> None:
    model = regressor(outputs=8)
    ended = built(model, {"x": vectors(80, 1)}, {"x": vectors(100, 2), "y": y}, "--task", task)
    assert ended.code == 1
    assert message in ended.json["error"]
