"""Adaptive rounding: rows that really are a layer's inputs, smaller errors, one answer."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from compiler.calibrate.ranges import collect_stats
from compiler.graph.floatgraph import normalise
from compiler.graph.source import load_source
from compiler.plan.draft import draft_plan
from compiler.plan.equalise import with_values
from compiler.plan.patches import patches_of
from compiler.plan.plan import Plan
from compiler.plan.rounding import Rounded, round_weights
from compiler.plan.structure import Structure, survey
from tests.plan.networks import ZOO, Array


def drafted(name: str, folder: Path, x: Array) -> tuple[Plan, Structure]:
    """A plan with extremes as ranges and weights rounded to the nearest."""
    model, _ = ZOO[name]()
    onnx.save(model, folder / "model.onnx")
    graph = normalise(load_source(folder / "model.onnx"))
    stats = collect_stats(graph, lambda: (row[None] for row in x))
    structure = survey(graph.prepared)
    ranges = {tensor: (one.low, one.high) for tensor, one in stats.items()}
    return draft_plan(graph.prepared, structure, ranges, "asymmetric"), structure


def rounded(plan: Plan, structure: Structure, x: Array) -> tuple[Rounded, Plan]:
    done = round_weights(plan, structure, x, 8)
    ranges = {name: (grid.low, grid.high) for name, grid in plan.grids.items()}
    other = draft_plan(plan.model, structure, ranges, "asymmetric", rounded=done.weights)
    return done, other


@pytest.mark.parametrize(
    ("shape", "weight", "attributes"),
    [
        ((4, 9, 11), (6, 4, 3, 3), {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
        ((4, 9, 11), (8, 1, 3, 3), {"group": 4, "dilations": [2, 2], "pads": [2, 2, 2, 2]}),
        ((4, 9, 11), (6, 2, 2, 5), {"group": 2, "auto_pad": "SAME_UPPER", "strides": [2, 3]}),
        ((4, 10, 8), (6, 4, 4, 4), {"auto_pad": "SAME_LOWER"}),
        ((4, 10, 8), (6, 4, 4, 4), {"auto_pad": "VALID"}),
        ((3, 20), (5, 3, 7), {"pads": [3, 3], "strides": [2]}),
        ((2, 5, 6, 7), (3, 2, 3, 3, 3), {"pads": [1, 1, 1, 1, 1, 1]}),
    ],
)
def test_rows_times_matrix_is_the_convolution(
    shape: tuple[int, ...], weight: tuple[int, ...], attributes: dict[str, object]
) -> None:
    random = np.random.default_rng(0)
    values = random.normal(0, 1, weight).astype(np.float32)
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Conv", ["x", "w"], ["y"], name="Conv_0", **attributes)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(values, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    x = random.normal(0, 1, (3, *shape)).astype(np.float32)
    (expected,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    patches = patches_of(model, survey(model).sites["Conv_0"])
    made = patches.rows(x, 10_000) @ np.swapaxes(patches.matrix(values), 1, 2)
    flat = np.moveaxis(expected, 1, -1).reshape(-1, weight[0])
    found = np.moveaxis(made, 0, 1).reshape(len(flat), weight[0])
    np.testing.assert_allclose(found, flat, atol=1e-4)
    np.testing.assert_array_equal(patches.weight(patches.matrix(values)), values)


@pytest.mark.parametrize(
    ("op", "weight", "shape", "gain"),
    [
        ("Gemm", (16, 40), (40,), 2.0),
        ("MatMul", (40, 16), (40,), 2.0),
        ("Conv", (8, 8, 3, 3), (8, 10, 10), 2.0),
        ("Conv", (8, 2, 3, 3), (8, 10, 10), 1.5),
        ("Conv", (8, 1, 3, 3), (8, 10, 10), 1.2),
    ],
)
def test_outputs_of_unseen_samples_come_nearer_than_with_the_nearest_weights(
    op: str, weight: tuple[int, ...], shape: tuple[int, ...], gain: float, tmp_path: Path
) -> None:
    random = np.random.default_rng(0)
    x, test = (_smooth(shape, 256, seed) for seed in (1, 2))
    values = random.normal(0, 1, weight).astype(np.float32)
    tensors = [numpy_helper.from_array(values, "w")]
    if op != "MatMul":
        width = weight[0]
        tensors.append(numpy_helper.from_array(random.normal(0, 1, width).astype(np.float32), "b"))
    attributes: dict[str, int] = {}
    if op == "Conv":
        attributes["group"] = shape[0] // weight[1]
    elif op == "Gemm":
        attributes["transB"] = 1
    names = ["x", *(tensor.name for tensor in tensors)]
    out = ["n", *[None] * (len(shape))]
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node(op, names, ["y"], name=f"{op}_0", **attributes)],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *shape])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
            tensors,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    structure = survey(model)
    least, most = float(x.min()), float(x.max())
    ranges = dict.fromkeys(structure.shared.values(), (least, most))
    plan = draft_plan(model, structure, ranges, "asymmetric")
    done = round_weights(plan, structure, x, 32)
    grid = plan.grids["x"]
    whole = np.clip(np.round(test / grid.scale) + grid.zero_point, -128, 127)
    steps = ((whole - grid.zero_point) * grid.scale).astype(np.float32)

    def answers(values: dict[str, Array]) -> Array:
        data = with_values(model, values).SerializeToString()
        (found,) = ort.InferenceSession(data).run(None, {"x": steps})
        return np.asarray(found, np.float32)

    node = f"{op}_0"
    nearest = answers({"w": plan.weights()[node].dequantised()})
    biases = {"b": done.biases[node]} if done.biases else {}
    rounded = answers({"w": done.weights[node].dequantised(), **biases})
    wanted = answers({})
    noise = [float(np.square(found - wanted).mean()) for found in (nearest, rounded)]
    assert noise[1] * gain < noise[0]


def _smooth(shape: tuple[int, ...], count: int, seed: int) -> Array:
    """Inputs whose neighbours are alike, as in pictures, about 1."""
    x = np.random.default_rng(seed).normal(0, 1, (count, *shape))
    for axis in range(1, x.ndim):
        for _ in range(3):
            x = (x + np.roll(x, 1, axis)) / 2**0.5
    return (x + 1).astype(np.float32)


_ONE = """
import sys
from pathlib import Path
from tests.plan.networks import ZOO, samples
from tests.plan.test_rounding import drafted, rounded
x = samples(ZOO["residual"]()[1], 32, 0)
plan, structure = drafted("residual", Path(sys.argv[1]), x)
done, other = rounded(plan, structure, x)
print(other.digest(), [bias.tobytes().hex() for bias in done.biases.values()])
"""


def test_rounding_does_not_depend_on_the_number_of_threads(tmp_path: Path) -> None:
    answers = set()
    for threads in ("1", "2"):
        done = subprocess.run(
            [sys.executable, "-c", _ONE, str(tmp_path)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        )
        answers.add(done.stdout)
    assert len(answers) == 1


@pytest.mark.parametrize("op", ["Gemm", "Conv"])
def test_weights_that_were_made_zero_stay_zero(op: str) -> None:
    """Else 2:4 sparsity, which was paid for with accuracy, would be gone."""
    random = np.random.default_rng(3)
    shape = (12, 16) if op == "Gemm" else (12, 16, 1, 1)
    weight = random.normal(0, 0.3, shape).astype(np.float32)
    weight[:, 1::2] = 0.0
    mixing = random.normal(0, 1, (16, 16))
    x = (random.normal(0, 1, (64, 16)) @ mixing).astype(np.float32).reshape(64, *(16, *shape[2:]))
    node = helper.make_node(
        op, ["x", "w", "b"], ["y"], name=f"{op}_0", **({"transB": 1} if op == "Gemm" else {})
    )
    graph = helper.make_graph(
        [node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *x.shape[1:]])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 12, *shape[2:]])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.zeros(12, "f4"), "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    structure = survey(model)
    ranges = dict.fromkeys(structure.shared.values(), (float(x.min()), float(x.max())))
    done = round_weights(draft_plan(model, structure, ranges, "asymmetric"), structure, x, 8)
    (found,) = done.weights.values()
    zero = weight == 0
    assert not found.values[zero].any()
    assert np.count_nonzero(found.values) > 0.9 * np.count_nonzero(~zero)
