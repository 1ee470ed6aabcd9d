"""A contract that does not fit is named with the line to write; one that fits raises no alarm."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
from onnx import ModelProto

from compiler.contractcheck import (
    ALPHA,
    Doubt,
    alternatives,
    float_answer,
    label_doubts,
    range_doubts,
    sign_test,
)
from compiler.datasets.dataset import Dataset
from compiler.graph.floatgraph import FloatGraph, normalise
from compiler.graph.source import load_source
from compiler.options import read_preprocess
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.preprocess import Preprocessor
from examples.digits.make_data import write_splits
from tests.compiler.conftest import Command, Small
from tests.compiler.models import Graph, frames, small_cnn, write_npz

DIGITS = Path(__file__).parents[2] / "examples" / "digits"
AS_IS = PreprocessSpec(kind="tensor")
IMAGE = PreprocessSpec(kind="image", height_px=6, width_px=6)
SCALE = 1 / 255


def colours(rows: int, seed: int) -> Dataset:
    """Noisy pictures ``[rows, 6, 6, 3]``, red (0), green (1) or blue (2)."""
    random = np.random.default_rng(seed)
    y = random.integers(0, 3, rows)
    x = random.integers(0, 160, (rows, 6, 6, 3))
    x[np.arange(rows), :, :, y] += 25
    return Dataset("calibration", x.astype(np.uint8), y, "")


def colour_model(high: float) -> ModelProto:
    """Names the strongest channel of RGB pictures in 0..``high``; a grey one is class 3."""
    graph = Graph([], [])
    weight = np.concatenate([np.eye(3), np.zeros((3, 1))], axis=1).astype(np.float32) * 8 / high
    bias = np.array([0, 0, 0, 1.5], np.float32)
    graph.add("Transpose", ["frames"], "nchw", perm=[0, 3, 1, 2])
    limits = [graph.weight(name, np.array(v, np.float32)) for name, v in (("l", 0), ("h", high))]
    graph.add("Clip", ["nchw", *limits], "clipped")
    graph.add("GlobalAveragePool", ["clipped"], "mean")
    graph.add("Flatten", ["mean"], "flat")
    graph.add("Gemm", ["flat", graph.weight("w", weight), graph.weight("b", bias)], "scores")
    return graph.model("scores", batch="n", opset=17, shape=(6, 6, 3), width=4)


def graph_of(model: ModelProto, folder: Path) -> FloatGraph:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return normalise(load_source(path))


def doubts(graph: FloatGraph, spec: PreprocessSpec, data: Dataset) -> list[Doubt]:
    return label_doubts(Preprocessor(spec, graph.row_shape), data, float_answer(graph))


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreprocessSpec, FloatGraph, Dataset]:
    folder = tmp_path_factory.mktemp("digits")
    write_splits(folder)
    with np.load(folder / "calibration.npz") as archive:
        data = Dataset("calibration", archive["x"], archive["y"].astype(np.int64), "")
    graph = normalise(load_source(DIGITS / "digits_float.onnx"))
    return read_preprocess(DIGITS / "preprocess.toml"), graph, data


# --- no false alarms


def test_the_right_contract_raises_no_doubt(
    tmp_path: Path, digits: tuple[PreprocessSpec, FloatGraph, Dataset]
) -> None:
    spec, graph, data = digits
    assert doubts(graph, spec, data) == []
    assert range_doubts(Preprocessor(spec, graph.row_shape), data) == []
    for seed in range(5):
        assert doubts(graph_of(colour_model(255), tmp_path), IMAGE, colours(300, seed)) == []
    x, y = frames(300, 3)
    assert doubts(graph_of(small_cnn(), tmp_path), AS_IS, Dataset("test", x, y, "")) == []


def test_a_model_that_no_alternative_helps_is_not_accused(tmp_path: Path) -> None:
    """Few samples, or labels of another order, prove nothing about the contract."""
    graph = graph_of(colour_model(255), tmp_path)
    data = colours(300, 1)
    few = Dataset("test", data.x[:12, ..., ::-1], data.y[:12] if data.y is not None else None, "")
    assert doubts(graph, IMAGE, few) == []
    assert data.y is not None
    mixed = np.random.default_rng(0).permutation(data.y)
    (found,) = doubts(graph, IMAGE, Dataset("test", data.x, mixed, ""))
    assert not found.sure
    assert "naming the commonest class always would get" in found.message


def test_sensors_have_no_alternatives() -> None:
    values = np.random.default_rng(0).normal(0, 30, (20, 49, 10, 1)).astype(np.float32)
    assert alternatives(AS_IS, values) == []


@pytest.mark.parametrize(("gained", "lost", "p"), [(0, 0, 1.0), (5, 0, 1 / 32), (3, 1, 5 / 16)])
def test_the_sign_test_is_exact(gained: int, lost: int, p: float) -> None:
    assert sign_test(gained, lost) == pytest.approx(p)


def test_equal_contracts_are_told_apart_at_most_as_often_as_stated() -> None:
    """Of 4,000 pairs of contracts that are equally good, about ALPHA per test differ by chance."""
    random = np.random.default_rng(1)
    gained = random.binomial(60, 0.5, 4000)
    assert (np.array([sign_test(g, 60 - g) for g in gained]) <= ALPHA).mean() <= 3 * ALPHA


# --- mix-ups


@pytest.mark.parametrize(
    ("high", "spec", "prepare", "fix"),
    [
        (255, IMAGE, lambda x: x[..., ::-1], 'colour = "BGR"'),
        (255, AS_IS, lambda x: x[..., ::-1], "x = x[..., ::-1]"),
        (1, IMAGE, lambda x: x, f"scale = {SCALE!r}"),
        (255, msgspec.structs.replace(IMAGE, scale=SCALE), lambda x: x, "scale = 1.0"),
        (255, AS_IS, lambda x: (x / 255).astype(np.float32), "scale = 255"),
        (
            1,
            msgspec.structs.replace(AS_IS, scale=SCALE),
            lambda x: (x / 255).astype(np.float32),
            "scale = 1.0",
        ),
        (
            1,
            msgspec.structs.replace(IMAGE, scale=SCALE, mean=[0.5] * 3, std=[0.1] * 3),
            lambda x: x,
            "no mean, no std",
        ),
    ],
    ids=["bgr", "bgr-arrays", "no-scale", "scaled", "0..1", "scaled-twice", "normalised"],
)
def test_a_mix_up_is_named_with_its_figures_and_the_line_to_write(
    tmp_path: Path,
    high: float,
    spec: PreprocessSpec,
    prepare: Callable[[np.ndarray], np.ndarray],
    fix: str,
) -> None:
    data = colours(300, 2)
    wrong = Dataset("calibration", prepare(data.x), data.y, "")
    (found,) = doubts(graph_of(colour_model(high), tmp_path), spec, wrong)
    assert found.sure
    assert fix in found.fix
    assert "of 300 labelled calibration samples" in found.message


@pytest.mark.parametrize(
    ("changed", "fix"),
    [
        ({"scale": 1.0}, f"scale = {SCALE!r}"),
        ({"mean": [], "std": []}, "mean = [0.5]"),
        ({"mean": [127.5], "std": [127.5]}, "scale = 1.0"),
        ({"scale": 1.0, "mean": [], "std": []}, "mean = [0.5]"),
    ],
)
def test_mix_ups_of_scale_mean_and_std_are_found_on_digits(
    digits: tuple[PreprocessSpec, FloatGraph, Dataset], changed: dict[str, object], fix: str
) -> None:
    spec, graph, data = digits
    (found,) = doubts(graph, msgspec.structs.replace(spec, **changed), data)
    assert found.sure
    assert fix in found.fix


# --- ranges, which need no labels and only warn


@pytest.mark.parametrize(
    ("spec", "low", "high", "what"),
    [
        ({"mean": [0.45], "std": [0.22]}, 0, 255, "scale seems to be missing"),
        ({"mean": [120.0], "std": [60.0], "scale": SCALE}, 0, 255, "mean and std are of 0..255"),
        ({"mean": [0.45], "std": [0.22], "scale": SCALE}, 0, 1, "scaled twice"),
        ({"mean": [0.45], "std": [0.22]}, -1.7, 1.7, "normalised twice"),
        ({"mean": [0.45], "std": [0.22], "scale": SCALE}, 0, 255, None),
        ({"mean": [0.45], "std": [0.22]}, 0, 1, None),
        ({}, 0, 255, None),
    ],
)
def test_ranges_far_from_what_a_contract_promises_are_warned_of(
    spec: dict[str, object], low: float, high: float, what: str | None
) -> None:
    x = np.random.default_rng(0).uniform(low, high, (50, 6, 6, 1)).astype(np.float32)
    contract = msgspec.structs.replace(AS_IS, **spec)
    found = range_doubts(Preprocessor(contract, (6, 6, 1)), Dataset("calibration", x, None, ""))
    assert [doubt.sure for doubt in found] == ([] if what is None else [False])
    assert all(what is not None and what in doubt.message for doubt in found)


# --- through the command line


def test_a_build_refuses_a_mix_up_and_can_be_told_to_go_on(
    small: Small, edge_compile: Command, tmp_path: Path
) -> None:
    data, test = colours(200, 5), colours(500, 6)
    onnx.save(colour_model(255), tmp_path / "m.onnx")
    wrong = {
        "model": tmp_path / "m.onnx",
        "calibration": write_npz(tmp_path / "c.npz", x=data.x[..., ::-1]),
        "test": write_npz(tmp_path / "t.npz", x=test.x[..., ::-1], y=test.y),
        "max_drop_pp": "5",
    }
    refused = edge_compile(small.arguments(tmp_path / "out", "--json", **wrong))
    assert refused.code == 1
    assert "channels come in the other order" in refused.json["error"]
    assert "--trust-preprocess" in refused.json["hint"]
    assert not (tmp_path / "out").exists()
    trusted = edge_compile(
        small.arguments(tmp_path / "out", "--json", "--trust-preprocess", **wrong)
    )
    assert trusted.code in (0, 5)
    assert any("x[..., ::-1]" in warning for warning in trusted.json["warnings"])
