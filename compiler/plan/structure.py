"""Which nodes of a float graph can run in int8, and which tensors then need a grid.

Everything here follows from the graph alone; no number is decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from compiler.graph.check import LAYER_OPS
from compiler.graph.floatgraph import constant_tensors

MOVING_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose", "MaxPool")
"""Operators whose output values are input values: one grid serves both sides."""

PASSING_OPS = (*MOVING_OPS, "Add", "Mul", "Concat", "AveragePool", "GlobalAveragePool", "LeakyRelu")
"""Operators beside the layers that have int8 kernels in the runtimes."""

Op = Literal["Conv", "Gemm", "MatMul"]


@dataclass(frozen=True)
class Site:
    """A layer that can run in int8.

    inputs: its activation inputs.
    weight, bias: names of its initializers, if it has them.
    axis: output-channel axis of the weight.
    output: the tensor behind ``cut``.
    cut: Relu and Clip nodes behind it, whose work saturation can do.
    """

    node: str
    op: Op
    inputs: tuple[str, ...]
    weight: str | None
    bias: str | None
    axis: int
    made: str
    output: str
    cut: tuple[str, ...]


@dataclass(frozen=True)
class Structure:
    """What of a graph can run in int8.

    sites: by node name, in the order of execution.
    passing: other nodes, by name -> their tensors.
    behind: a tensor before a Relu or Clip that saturation can perform -> the tensor after it.
    cuts: names of those Relu and Clip nodes.
    limits: tensor after such a cut -> its least and greatest possible value.
    shared: tensor -> the tensor whose grid it shares (itself where it has its own).
    gridded: every tensor that needs a grid when all sites run in int8, in a fixed order.
    """

    sites: Mapping[str, Site]
    passing: Mapping[str, NodeProto]
    behind: Mapping[str, str]
    cuts: frozenset[str]
    limits: Mapping[str, tuple[float, float]]
    shared: Mapping[str, str]
    gridded: tuple[str, ...]


def survey(model: ModelProto, left_float: frozenset[str] = frozenset()) -> Structure:
    """Find out what can run in int8, with the layers named in ``left_float`` taken out."""
    graph = model.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    constants = constant_tensors(graph)
    outputs = {value.name for value in graph.output}
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    behind: dict[str, str] = {}
    limits: dict[str, tuple[float, float]] = {}
    cuts: set[str] = set()

    def follow_cut(made: str) -> tuple[str, tuple[str, ...]]:
        """The tensor behind the Relu or Clip that alone reads ``made``, and their names."""
        found: list[str] = []
        tensor = made
        while tensor not in outputs and len(users.get(tensor, [])) == 1:
            (node,) = users[tensor]
            limit = _limit(node, weights)
            if limit is None:
                break
            low, high = limits.get(tensor, (-np.inf, np.inf))
            tensor = node.output[0]
            limits[tensor] = (max(low, limit[0]), min(high, limit[1]))
            found.append(node.name)
        if found:
            behind[made] = tensor
            cuts.update(found)
        return tensor, tuple(found)

    sites: dict[str, Site] = {}
    for node in graph.node:
        if node.op_type in LAYER_OPS and node.name not in left_float:
            found = _site(node, weights, constants)
            if found is not None:
                output, cut = follow_cut(node.output[0])
                sites[node.name] = Site(*found, made=node.output[0], output=output, cut=cut)
    useful = _leads_to(graph, [site.node for site in sites.values()])
    ready = {site.output for site in sites.values()}
    passing: dict[str, NodeProto] = {}
    for node in graph.node:
        tensors = [name for name in node.input if name and name not in constants]
        if node.op_type not in PASSING_OPS or node.domain not in ("", "ai.onnx"):
            continue
        if node.op_type in ("Add", "Mul", "Concat") and len(tensors) != len(node.input):
            continue
        if tensors and all(name in ready for name in tensors) and node.output[0] in useful:
            if len(node.output) > 1 and any(node.output[1:]):
                continue
            passing[node.name] = node
            output, _ = follow_cut(node.output[0])
            ready.add(output)
    shared = _share(passing.values(), constants, behind)
    gridded: dict[str, None] = {}
    for node in graph.node:
        if node.name in sites:
            site = sites[node.name]
            gridded |= dict.fromkeys((*site.inputs, site.output))
        elif node.name in passing:
            inputs = [name for name in node.input if name and name not in constants]
            gridded |= dict.fromkeys((*inputs, behind.get(node.output[0], node.output[0])))
    return Structure(
        sites=sites,
        passing=passing,
        behind=behind,
        cuts=frozenset(cuts),
        limits=limits,
        shared={name: shared.get(name, name) for name in gridded},
        gridded=tuple(gridded),
    )


def ends_of(structure: Structure) -> list[str]:
    """The tensors whose grid belongs to a result that no int8 operator reads."""
    read: set[str] = set()
    for site in structure.sites.values():
        read |= set(site.inputs)
    for node in structure.passing.values():
        read |= set(node.input)
    ends = [name for name in structure.gridded if name not in read]
    return list(dict.fromkeys(structure.shared[name] for name in ends))


def attribute(node: NodeProto, name: str, default: float) -> float:
    """A number among a node's attributes."""
    for found in node.attribute:
        if found.name == name:
            return float(found.f if found.type == found.FLOAT else found.i)
    return default


def initializer(model: ModelProto, name: str) -> npt.NDArray[np.float32]:
    """An initializer's float32 values.

    Raises:
        KeyError: there is none of that name.
    """
    for tensor in model.graph.initializer:
        if tensor.name == name:
            return np.asarray(numpy_helper.to_array(tensor), np.float32)
    raise KeyError(name)


def _site(
    node: NodeProto, weights: Mapping[str, TensorProto], constants: set[str]
) -> tuple[str, Op, tuple[str, ...], str | None, str | None, int] | None:
    """(node, op, inputs, weight, bias, axis), or None where no int8 kernel fits."""
    first, second = node.input[0], node.input[1]
    bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
    if first in constants or (bias is not None and bias not in weights):
        return None
    if node.op_type == "MatMul":
        if second in constants and second not in weights:
            return None
        if second in weights:
            dims = list(weights[second].dims)
            if len(dims) != 2:
                return None
            return node.name, "MatMul", (first,), second, None, 1
        return node.name, "MatMul", (first, second), None, None, 0
    if second not in weights:
        return None
    if node.op_type == "Conv":
        return node.name, "Conv", (first,), second, bias, 0
    plain = attribute(node, "alpha", 1.0) == 1 and attribute(node, "beta", 1.0) == 1
    if not plain or attribute(node, "transA", 0):
        return None
    if bias is not None:
        dims = list(weights[bias].dims)
        axis = 0 if attribute(node, "transB", 0) else 1
        width = weights[second].dims[axis]
        if dims not in ([width], [1, width]):
            return None
    return node.name, "Gemm", (first,), second, bias, 0 if attribute(node, "transB", 0) else 1


def _limit(node: NodeProto, weights: Mapping[str, TensorProto]) -> tuple[float, float] | None:
    """What a Relu or Clip cuts to, where 0 lies inside; None for other nodes."""
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return None
    found = [-np.inf, np.inf]
    for place, name in enumerate(node.input[1:3]):
        if name:
            if name not in weights:
                return None
            found[place] = float(numpy_helper.to_array(weights[name]).reshape(()))
    return (found[0], found[1]) if found[0] <= 0 < found[1] else None


def _leads_to(graph: GraphProto, nodes: list[str]) -> set[str]:
    """Tensors on which one of ``nodes`` depends."""
    wanted: set[str] = set()
    names = set(nodes)
    for node in reversed(graph.node):
        if node.name in names or any(output in wanted for output in node.output):
            wanted |= set(node.input)
    return wanted


def _share(
    passing: Iterable[NodeProto], constants: set[str], behind: Mapping[str, str]
) -> dict[str, str]:
    """Tensor -> the tensor at the head of the chain of moving operators that it hangs on."""
    head: dict[str, str] = {}
    for node in passing:
        if node.op_type in MOVING_OPS and node.output[0] not in behind:
            head[node.output[0]] = head.get(node.input[0], node.input[0])
    return head
