"""The layers that int8 is about: every Conv, Gemm and MatMul of the source, with its MACs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto

from compiler.errors import SourceError
from compiler.floatgraph import FloatGraph, constant_tensors, first_line
from compiler.graphcheck import LAYER_OPS
from edge_runtime.onnx_session import session_options

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Layer:
    """One multiplication of the source graph.

    name: in ``FloatGraph``; ``source_name`` is the exporter's.
    macs: multiply-accumulates for one frame.
    """

    name: str
    source_name: str
    op: str
    macs: int


def list_layers(graph: FloatGraph, example: npt.NDArray[np.float32]) -> list[Layer]:
    """Every Conv, Gemm and MatMul that depends on the input, in the order of execution.

    Batch norms need no place here: folding them changes no count. What depends on constants
    alone is computed once, at load, and is left out.

    Args:
        graph: the float graph.
        example: one model input, float32 ``[1, ...]``; shapes are read off a real run, so that
            dynamic ones are known, too.

    Raises:
        SourceError: the runtime fails on the example.
    """
    constants = constant_tensors(graph.model.graph)
    nodes = [
        node
        for node in graph.model.graph.node
        if node.op_type in LAYER_OPS and node.output[0] not in constants
    ]
    shapes = _shapes(graph, nodes, example)
    return [
        Layer(
            name=node.name,
            source_name=graph.names.get(node.name, node.name),
            op=node.op_type,
            macs=macs(node, shapes),
        )
        for node in nodes
    ]


def macs(node: NodeProto, shapes: dict[str, Shape]) -> int:
    """Multiply-accumulates of one Conv, Gemm or MatMul, from its tensors' shapes.

    Conv: output elements times kernel elements of one output channel (``weight[1:]``, so groups
    count). Gemm and MatMul: output elements times the shared axis.
    """
    output = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return output * math.prod(shapes[node.input[1]][1:])
    first = shapes[node.input[0]]
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return output * (first[0] if transposed else first[-1])


def _shapes(
    graph: FloatGraph, nodes: list[NodeProto], example: npt.NDArray[np.float32]
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.model.graph.initializer}
    feeds = graph.given.split(example)
    shapes.update({name: array.shape for name, array in feeds.items()})
    wanted: list[str] = []
    for node in nodes:
        wanted += [name for name in (*node.input[:2], node.output[0]) if name not in shapes]
    wanted = list(dict.fromkeys(wanted))
    try:
        session = ort.InferenceSession(
            with_outputs(graph.model, wanted).SerializeToString(),
            session_options("float32"),
            providers=["CPUExecutionProvider"],
        )
        arrays = session.run(wanted, feeds)
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise SourceError(
            f"the model fails on the first calibration sample: {first_line(error)}",
            hint="export it with batch 1 or a free batch axis",
        ) from error
    shapes.update({name: a.shape for name, a in zip(wanted, arrays, strict=True)})
    return shapes


def with_outputs(model: ModelProto, names: list[str]) -> ModelProto:
    """A copy of ``model`` that hands out the inner tensors ``names``, too."""
    copy = ModelProto()
    copy.CopyFrom(model)
    present = {value.name for value in copy.graph.output}
    copy.graph.output.extend(onnx.ValueInfoProto(name=n) for n in names if n not in present)
    return copy


def inner_tensors(graph: GraphProto) -> list[str]:
    """Names of what the nodes make, in the order of execution."""
    return [output for node in graph.node for output in node.output if output]
