"""Small classifiers that really classify, and the data they were fitted to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

CLASSES = 4
SIDE = 12
RIDGE = 1.0
Array = npt.NDArray[np.float32]


def frames(rows: int, seed: int) -> tuple[Array, npt.NDArray[np.int64]]:
    """Striped patterns ``[rows, SIDE, SIDE, 1]`` in 0..255 of four classes, noisy, and labels."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, CLASSES, rows)
    y, x = np.mgrid[0:SIDE, 0:SIDE]
    phase = random.uniform(0, 6.28, rows)[:, None, None]
    axis = np.where((labels % 2 == 0)[:, None, None], x[None], y[None])
    pitch = np.where((labels < 2)[:, None, None], 0.8, 2.0)
    images = 128 + 80 * np.sin(axis * pitch + phase) + random.normal(0, 40, (rows, SIDE, SIDE))
    return np.clip(images, 0, 255).astype(np.float32)[..., None], labels.astype(np.int64)


@dataclass
class Graph:
    """An ONNX graph under construction."""

    nodes: list[NodeProto]
    weights: list[TensorProto]

    def weight(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """Add an initializer and return its name."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        """Add a node called after its output and return the output."""
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"n/{output}", **attributes))
        return output

    def model(
        self, output: str, *, batch: int | str, opset: int, shape: tuple[int, ...], width: int
    ) -> ModelProto:
        """The model whose input is ``frames`` and whose output is ``output``."""
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info("frames", TensorProto.FLOAT, [batch, *shape])],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, [batch, width])],
            self.weights,
        )
        return helper.make_model(
            graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8
        )


def small_cnn(
    *, batch: int | str = "batch", opset: int = 17, head: str = "Softmax", seed: int = 0
) -> ModelProto:
    """Transpose, scale, conv + batch norm, depthwise conv, pointwise conv, pooling, Gemm, head.

    Random features and a last layer fitted by least squares; 4 layers to run in int8.
    """
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Array:
        fan_in = max(1, int(np.prod(shape[1:])))
        return (random.normal(0, 1, shape) * np.sqrt(2 / fan_in)).astype(np.float32)

    graph = Graph([], [])
    graph.add("Transpose", ["frames"], "nchw", perm=[0, 3, 1, 2])
    graph.add("Mul", ["nchw", graph.weight("scale", np.array(1 / 64, np.float32))], "scaled")
    graph.add("Conv", ["scaled", graph.weight("w1", normal(16, 1, 3, 3))], "c1", pads=[1] * 4)
    for name, value in (
        ("gamma", random.uniform(0.5, 1.5, 16)),
        ("beta", random.normal(0, 0.2, 16)),
        ("mean", random.normal(0, 0.2, 16)),
        ("variance", random.uniform(0.5, 1.5, 16)),
    ):
        graph.weight(name, value.astype(np.float32))
    graph.add("BatchNormalization", ["c1", "gamma", "beta", "mean", "variance"], "bn")
    graph.add("Relu", ["bn"], "r1")
    graph.add(
        "Conv",
        ["r1", graph.weight("w2", normal(16, 1, 3, 3)), graph.weight("b2", normal(16) * 0.1)],
        "c2",
        group=16,
        pads=[1] * 4,
    )
    graph.add("Relu", ["c2"], "r2")
    graph.add("Conv", ["r2", graph.weight("w3", normal(32, 16, 1, 1))], "c3")
    graph.add("Relu", ["c3"], "r3")
    graph.add("GlobalAveragePool", ["r3"], "pool")
    graph.add("Flatten", ["pool"], "features")
    trunk = graph.model("features", batch="batch", opset=17, shape=(SIDE, SIDE, 1), width=32)
    x, y = frames(400, seed + 1)
    features = ort.InferenceSession(trunk.SerializeToString()).run(None, {"frames": x})[0]
    centre = features.mean(axis=0)
    design = np.hstack([features - centre, np.ones((len(x), 1))])
    wanted = 8.0 * (np.eye(CLASSES)[y] - 0.5)
    # A firm ridge keeps the weights small; without it the layer amplifies rounding a hundredfold.
    ridge = RIDGE * np.eye(design.shape[1])
    fitted = np.linalg.solve(design.T @ design + ridge, design.T @ wanted)
    weight = fitted[:-1].astype(np.float32)
    bias = (fitted[-1] - centre @ fitted[:-1]).astype(np.float32)
    graph.weight("w4", weight)
    graph.weight("b4", bias)
    output = graph.add("Gemm", ["features", "w4", "b4"], "logits")
    if head:
        output = graph.add(head, ["logits"], "scores")
    model = graph.model(output, batch=batch, opset=opset, shape=(SIDE, SIDE, 1), width=CLASSES)
    onnx.checker.check_model(model)
    return model


def residual_cnn(*, seed: int = 3) -> ModelProto:
    """Two residual blocks (one with a projection), max pooling, and a Gemm with Relu before it."""
    random = np.random.default_rng(seed)
    graph = Graph([], [])

    def conv(source: str, output: str, made: int, read: int, side: int, stride: int = 1) -> str:
        values = random.normal(0, 1, (made, read, side, side)) * np.sqrt(2 / (read * side * side))
        weight = graph.weight(f"{output}_w", values.astype(np.float32))
        bias = graph.weight(f"{output}_b", random.normal(0, 0.1, made).astype(np.float32))
        pads = [side // 2] * 4
        inputs = [source, weight, bias]
        return graph.add("Conv", inputs, output, pads=pads, strides=[stride, stride])

    graph.add("Transpose", ["frames"], "nchw", perm=[0, 3, 1, 2])
    graph.add("Mul", ["nchw", graph.weight("scale", np.array(1 / 128, np.float32))], "scaled")
    graph.add("Relu", [conv("scaled", "c1", 8, 1, 3)], "r1")
    graph.add("Relu", [conv("r1", "c2", 8, 8, 3)], "r2")
    graph.add("Add", ["r1", conv("r2", "c3", 8, 8, 3)], "a1")
    graph.add("Relu", ["a1"], "r3")
    graph.add("MaxPool", ["r3"], "m", kernel_shape=[2, 2], strides=[2, 2])
    graph.add("Relu", [conv("m", "c4", 16, 8, 3)], "r4")
    graph.add("Add", [conv("m", "c6", 16, 8, 1), conv("r4", "c5", 16, 16, 3)], "a2")
    graph.add("Relu", ["a2"], "r5")
    graph.add("GlobalAveragePool", ["r5"], "pool")
    graph.add("Flatten", ["pool"], "features")
    trunk = graph.model("features", batch="batch", opset=17, shape=(SIDE, SIDE, 1), width=16)
    x, y = frames(400, seed + 1)
    features = ort.InferenceSession(trunk.SerializeToString()).run(None, {"frames": x})[0]
    design = np.hstack([features, np.ones((len(x), 1))])
    wanted = 8.0 * (np.eye(CLASSES)[y] - 0.5)
    ridge = 30 * RIDGE * np.eye(design.shape[1])
    fitted = np.linalg.solve(design.T @ design + ridge, design.T @ wanted)
    graph.weight("wl", fitted[:-1].T.astype(np.float32))
    graph.weight("bl", fitted[-1].astype(np.float32))
    graph.add("Gemm", ["features", "wl", "bl"], "logits", transB=1)
    graph.add("Softmax", ["logits"], "scores")
    return graph.model("scores", batch="batch", opset=17, shape=(SIDE, SIDE, 1), width=CLASSES)


def matmul_model() -> ModelProto:
    """Two fully connected layers written as MatMul + Add, the first with a batch norm behind it."""
    random = np.random.default_rng(5)
    graph = Graph([], [])
    graph.weight("wa", random.normal(0, 0.2, (16, 24)).astype(np.float32))
    graph.weight("ba", random.normal(0, 0.2, 24).astype(np.float32))
    graph.weight("wb", random.normal(0, 0.3, (24, 3)).astype(np.float32))
    graph.weight("bb", random.normal(0, 0.2, 3).astype(np.float32))
    for name in ("gamma", "variance"):
        graph.weight(name, random.uniform(0.5, 1.5, 24).astype(np.float32))
    for name in ("beta", "mean"):
        graph.weight(name, random.normal(0, 0.2, 24).astype(np.float32))
    graph.add("MatMul", ["frames", "wa"], "ma")
    graph.add("Add", ["ma", "ba"], "aa")
    graph.add("BatchNormalization", ["aa", "gamma", "beta", "mean", "variance"], "bn")
    graph.add("Relu", ["bn"], "r")
    graph.add("MatMul", ["r", "wb"], "mb")
    graph.add("Add", ["mb", "bb"], "scores")
    return graph.model("scores", batch="batch", opset=13, shape=(16,), width=3)


def write_npz(path: Path, **arrays: npt.NDArray[np.generic]) -> Path:
    """Save arrays and return the path."""
    np.savez(path, **arrays)
    return path
