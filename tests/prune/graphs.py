"""Small float graphs with random weights, each with one trait that pruning has to respect."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from compiler.calibrate.ranges import Samples
from compiler.graph.floatgraph import FloatGraph, normalise
from compiler.graph.source import load_source
from edge_runtime.onnx_session import session_options

Array = npt.NDArray[np.float32]
SIDE = 8


class Net:
    """A graph under construction; every method gives the name of what it made."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.width = {"x": 3}

    def constant(self, value: npt.NDArray[np.generic]) -> str:
        name = f"c{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def op(self, kind: str, *inputs: str, width: int | None = None, **attributes: Any) -> str:
        name = f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, **attributes))
        self.width[name] = self.width[inputs[0]] if width is None else width
        return name

    def conv(self, x: str, outputs: int, kernel: int = 3, *, weight: Array | None = None) -> str:
        """Same padding, no stride."""
        shape = (outputs, self.width[x], kernel, kernel)
        if weight is None:
            weight = self.normal(*shape) / np.float32(np.sqrt(shape[1] * kernel * kernel))
        made = self.constant(weight), self.constant(self.normal(outputs) * np.float32(0.1))
        return self.op("Conv", x, *made, width=outputs, pads=[kernel // 2] * 4)

    def depthwise(self, x: str) -> str:
        width = self.width[x]
        weight = self.constant(self.normal(width, 1, 3, 3))
        bias = self.constant(self.normal(width))
        return self.op("Conv", x, weight, bias, group=width, pads=[1] * 4)

    def relu(self, x: str) -> str:
        return self.op("Relu", x)

    def head(self, x: str, classes: int = 5) -> str:
        pooled = self.op("GlobalAveragePool", x)
        flat = self.op("Flatten", pooled)
        return self.gemm(flat, self.width[flat], classes)

    def gemm(self, x: str, inputs: int, outputs: int) -> str:
        weight = self.constant(self.normal(inputs, outputs) / np.float32(np.sqrt(inputs)))
        return self.op("Gemm", x, weight, self.constant(self.normal(outputs)), width=outputs)

    def normal(self, *shape: int) -> Array:
        return self.random.normal(0, 1, shape).astype(np.float32)

    def model(self, output: str) -> ModelProto:
        shape: list[str | int | None] = ["batch", 3, SIDE, SIDE]
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, TensorProto.FLOAT, ["batch", "scores"])],
            self.weights,
        )
        opsets = [helper.make_opsetid("", 17)]
        return helper.make_model(graph, opset_imports=opsets, ir_version=8)

    def graph(self, output: str, folder: Path) -> FloatGraph:
        """The model as the compiler reads it."""
        path = folder / "net.onnx"
        onnx.save(self.model(output), path)
        return normalise(load_source(path))


def stream(rows: int = 40, seed: int = 1) -> Samples:
    """Samples that start anew at each call."""
    x = np.random.default_rng(seed).normal(0, 1, (rows, 1, 3, SIDE, SIDE)).astype(np.float32)
    return lambda: iter(x)


def answer(model: ModelProto, rows: int = 30, seed: int = 2) -> Array:
    """Outputs for fresh samples."""
    session = ort.InferenceSession(model.SerializeToString(), session_options("float32"))
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: x})[0] for x in stream(rows, seed)()])


def weight_shapes(model: ModelProto, kind: str = "Conv") -> list[tuple[int, ...]]:
    """Shapes of the weights of all nodes of ``kind``, in order."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    return [dims[node.input[1]] for node in model.graph.node if node.op_type == kind]
