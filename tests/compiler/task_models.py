"""Small models that do other things than classify, and their data."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.compiler.models import Array, Graph

WIDTH = 12
BOXES = 3


def _made(
    graph: Graph, inputs: dict[str, list[object]], outputs: dict[str, list[object]]
) -> ModelProto:
    return helper.make_model(
        helper.make_graph(
            graph.nodes,
            "main",
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in inputs.items()],
            [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in outputs.items()],
            graph.weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def _dense(graph: Graph, source: str, name: str, read: int, made: int, seed: int) -> str:
    random = np.random.default_rng(seed)
    weight = random.normal(0, read**-0.5, (read, made)).astype(np.float32)
    bias = random.normal(0, 0.1, made).astype(np.float32)
    names = [source, graph.weight(f"{name}_w", weight), graph.weight(f"{name}_b", bias)]
    return graph.add("Gemm", names, name)


def regressor(outputs: int = 1) -> ModelProto:
    """``x [n, 12]`` -> ``y [n, outputs]`` through two layers."""
    graph = Graph([], [])
    graph.add("Relu", [_dense(graph, "x", "h", WIDTH, 32, 1)], "r")
    _dense(graph, "r", "y", 32, outputs, 2)
    return _made(graph, {"x": ["batch", WIDTH]}, {"y": ["batch", outputs]})


def binary(*, sigmoid: bool) -> ModelProto:
    """``x [n, 12]`` -> one score ``y [n, 1]``: the logit of class 1, or its probability."""
    graph = Graph([], [])
    graph.add("Relu", [_dense(graph, "x", "h", WIDTH, 32, 1)], "r")
    made = _dense(graph, "r", "z", 32, 1, 3)
    if sigmoid:
        made = graph.add("Sigmoid", [made], "y")
    return _made(graph, {"x": ["batch", WIDTH]}, {made: ["batch", 1]})


def two_ends() -> ModelProto:
    """``left [n, 12]`` and ``right [n, 2, 3]`` -> ``scores [n, 4]`` and ``vector [n, 8]``."""
    graph = Graph([], [])
    shape = graph.weight("shape", np.array([-1, 6], np.int64))
    graph.add("Reshape", ["right", shape], "flat")
    a = graph.add("Relu", [_dense(graph, "left", "ha", WIDTH, 16, 1)], "ra")
    b = graph.add("Relu", [_dense(graph, "flat", "hb", 6, 16, 2)], "rb")
    graph.add("Concat", [a, b], "both", axis=1)
    graph.add("Softmax", [_dense(graph, "both", "logits", 32, 4, 3)], "scores")
    _dense(graph, "both", "vector", 32, 8, 4)
    return _made(
        graph,
        {"left": ["batch", WIDTH], "right": ["batch", 2, 3]},
        {"scores": ["batch", 4], "vector": ["batch", 8]},
    )


def detector() -> ModelProto:
    """``x [n, 12]`` -> ``detections [n, 3, 6]``: a box around each of three pairs of numbers."""
    graph = Graph([], [])
    weight = np.zeros((WIDTH, BOXES * 6), np.float32)
    bias = np.zeros(BOXES * 6, np.float32)
    for box in range(BOXES):
        for corner, reach in ((0, -2.0), (2, 2.0)):
            for axis in range(2):
                weight[4 * box + axis, 6 * box + corner + axis] = 1.0
                bias[6 * box + corner + axis] = reach
        weight[4 * box + 2, 6 * box + 4] = 0.1  # score
        bias[6 * box + 5] = box % 2  # class
    names = ["x", graph.weight("w", weight), graph.weight("b", bias)]
    graph.add("Gemm", names, "flat")
    graph.add(
        "Reshape", ["flat", graph.weight("s", np.array([-1, BOXES, 6], np.int64))], "detections"
    )
    return _made(graph, {"x": ["batch", WIDTH]}, {"detections": ["batch", BOXES, 6]})


def scenes(rows: int, seed: int) -> tuple[Array, Array]:
    """What ``detector`` looks at, and the true boxes ``[rows, 4, 5]``; the last is no box."""
    random = np.random.default_rng(seed)
    x = random.uniform(0, 10, (rows, WIDTH)).astype(np.float32)
    truth = np.full((rows, BOXES + 1, 5), -1.0, np.float32)
    for box in range(BOXES):
        centre = x[:, 4 * box : 4 * box + 2] + random.normal(0, 0.3, (rows, 2)).astype(np.float32)
        truth[:, box, :2], truth[:, box, 2:4] = centre - 2, centre + 2
        truth[:, box, 4] = box % 2
    return x, truth


def vectors(rows: int, seed: int, width: int = WIDTH) -> Array:
    """Normal numbers ``[rows, width]``."""
    return np.random.default_rng(seed).normal(0, 1, (rows, width)).astype(np.float32)


def recurrent() -> ModelProto:
    """Eight steps of four readings through an LSTM of 6 units, three scores, and no bias."""
    graph = Graph([], [])
    random = np.random.default_rng(8)
    graph.weight("w", random.normal(0, 0.4, (1, 24, 4)).astype(np.float32))
    graph.weight("r", random.normal(0, 0.3, (1, 24, 6)).astype(np.float32))
    graph.weight("h", random.normal(0, 0.5, (6, 3)).astype(np.float32))
    graph.weight("axis", np.array([0], np.int64))
    graph.add("Transpose", ["x"], "steps", perm=[1, 0, 2])
    graph.nodes.append(
        helper.make_node("LSTM", ["steps", "w", "r"], ["", "last"], name="cell", hidden_size=6)
    )
    graph.add("Squeeze", ["last", "axis"], "state")
    graph.add("MatMul", ["state", "h"], "scores")
    return _made(graph, {"x": ["n", 8, 4]}, {"scores": ["n", 3]})


def looped() -> ModelProto:
    """``x [n, 12]`` through a layer, a Loop that multiplies twice, and an Einsum with itself."""
    graph = Graph([], [])
    hidden = graph.add("Relu", [_dense(graph, "x", "h", WIDTH, 8, 1)], "r")
    matrix = np.random.default_rng(2).normal(0, 0.3, (8, 8)).astype(np.float32)
    graph.weight("m", matrix)
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "m"], ["next"]),
            helper.make_node("Identity", ["going"], ["goes"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("step", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    times = graph.weight("times", np.array(2, np.int64))
    going = graph.weight("on", np.array(True))
    looped = helper.make_node("Loop", [times, going, hidden], ["z"], name="again", body=body)
    graph.nodes.append(looped)
    graph.add("Einsum", ["z", "m", "r"], "y", equation="...i,ij,...j->...j")
    return _made(graph, {"x": ["n", WIDTH]}, {"y": ["n", 8]})


def branched() -> ModelProto:
    """``x [n, 12]`` through one layer, which stands in both branches of an If."""
    graph = Graph([], [])
    weight = np.random.default_rng(4).normal(0, 0.3, (WIDTH, 8)).astype(np.float32)
    graph.weight("w", weight)
    graph.weight("zero", np.zeros((), np.float32))
    graph.add("ReduceMean", ["x"], "mean", keepdims=0)
    graph.add("Greater", ["mean", "zero"], "bright")
    branches = {}
    for name, then in (("then_branch", "Identity"), ("else_branch", "Neg")):
        made = [
            helper.make_node("MatMul", ["x", "w"], [f"{then}_m"]),
            helper.make_node(then, [f"{then}_m"], [f"{then}_y"]),
        ]
        output = helper.make_tensor_value_info(f"{then}_y", TensorProto.FLOAT, None)
        branches[name] = helper.make_graph(made, name, [], [output])
    graph.nodes.append(helper.make_node("If", ["bright"], ["y"], name="branch", **branches))
    return _made(graph, {"x": ["n", WIDTH]}, {"y": ["n", 8]})
