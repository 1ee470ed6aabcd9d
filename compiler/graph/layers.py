"""The layers of the source that multiply, with their MACs.

Int8 is about every Conv, Gemm and MatMul. Others that multiply count in the work of a frame, too:
a share of the work in int8 that left them out would promise too much.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnx import GraphProto, ModelProto, NodeProto

from compiler.errors import SourceError
from compiler.graph.check import LAYER_OPS
from compiler.graph.floatgraph import FloatGraph, constant_tensors, first_line
from edge_runtime.onnx_session import session_options

Shape = tuple[int, ...]

RECURRENT_OPS = ("LSTM", "GRU", "RNN")

FLOAT_OPS = ("ConvTranspose", "Einsum", *RECURRENT_OPS)
"""Operators that multiply as layers do and that no scheme runs in int8."""


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
    """Every layer that depends on the input, ``FLOAT_OPS`` among them, in the order of execution.

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
        if node.op_type in (*LAYER_OPS, *FLOAT_OPS) and not constants & set(node.output)
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
    """Multiply-accumulates of one layer, from its tensors' shapes.

    Conv: output elements times kernel elements of one output channel (``weight[1:]``, so groups
    count). Gemm and MatMul: output elements times the shared axis. ConvTranspose: input elements
    times what each is multiplied by. Recurrent ones: both weights, for each step and direction.
    Einsum: one product of all its axes for each operand after the first.
    """
    if node.op_type == "ConvTranspose":
        return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])
    if node.op_type == "Einsum":
        equation = next(a.s.decode() for a in node.attribute if a.name == "equation")
        return einsum_macs(equation, [shapes[name] for name in node.input])
    if node.op_type in RECURRENT_OPS:
        weights = sum(math.prod(shapes[name]) for name in node.input[1:3])
        return math.prod(shapes[node.input[0]][:2]) * weights
    output = math.prod(shapes[node.output[0]])
    if node.op_type == "Conv":
        return output * math.prod(shapes[node.input[1]][1:])
    first = shapes[node.input[0]]
    transposed = any(a.name == "transA" and a.i for a in node.attribute)
    return output * (first[0] if transposed else first[-1])


def einsum_macs(equation: str, shapes: Sequence[Shape]) -> int:
    """Multiply-accumulates of an Einsum that multiplies its operands one after another.

    Every axis counts once, those that an ellipsis stands for, too; one operand is only moved and
    summed.
    """
    sizes: dict[str, int] = {}
    terms = equation.replace(" ", "").split("->")[0].split(",")
    for term, shape in zip(terms, shapes, strict=True):
        before, dots, behind = term.partition("...")
        rest = len(shape) - len(before) - len(behind) if dots else 0
        # Broadcast axes are counted from the right, as numpy aligns them.
        free = [f".{place}" for place in range(rest, 0, -1)]
        for label, size in zip([*before, *free, *behind], shape, strict=True):
            sizes[label] = max(size, sizes.get(label, 1))
    return (len(shapes) - 1) * math.prod(sizes.values())


def tensors_counted(node: NodeProto) -> list[str]:
    """The tensors whose shapes ``macs`` needs."""
    if node.op_type == "Einsum":
        return list(node.input)
    # Recurrent layers may leave their first output out, and its shape tells nothing of them.
    return [*node.input[:3]] if node.op_type in RECURRENT_OPS else [*node.input[:2], node.output[0]]


def _shapes(
    graph: FloatGraph, nodes: list[NodeProto], example: npt.NDArray[np.float32]
) -> dict[str, Shape]:
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.model.graph.initializer}
    feeds = graph.given.split(example)
    shapes.update({name: array.shape for name, array in feeds.items()})
    wanted: list[str] = []
    for node in nodes:
        wanted += [name for name in tensors_counted(node) if name not in shapes]
    wanted = list(dict.fromkeys(wanted))
    if not wanted:  # onnxruntime takes an empty list for "every output"
        return shapes
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
