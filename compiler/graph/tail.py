"""The end of a model: what turns logits into scores, and what one int8 step does to an output."""

from __future__ import annotations

import math

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper

from compiler.graph.check import LAYER_OPS
from compiler.plan.plan import Plan
from edge_runtime.preprocess import FloatArray

_SCORE_OPS = ("Softmax", "LogSoftmax", "Sigmoid")
_MOVING_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose")
"""Operators that change no value."""


def score_nodes(graph: GraphProto, output: str) -> list[NodeProto]:
    """The Softmax, LogSoftmax or Sigmoid that makes ``output``, if one does."""
    return [node for node in _path(graph, output) if node.op_type in _SCORE_OPS]


def score_step(model: ModelProto, output: str, spread: float) -> float:
    """How far one value of an output moves when the last int8 tensor before it moves by one step.

    Where the logits themselves are int8, that is their scale ``s``. Where the last layer hands
    them out in float, its input is the last int8 tensor: steps of scale ``x`` in all
    of it, as independent as rounding makes them, move a logit by about ``s = x * |weights|``, the
    Euclidean norm of the weights that read it. Through a softmax a probability then moves by at
    most ``tanh(s / 2)``: the odds change by at most a factor ``exp(2 s)``, which moves a
    probability most at one half. Through a sigmoid it is ``s / 4``, through a log-softmax
    ``2 s``. Where the last layers ran in float, 1/255 of the output's spread stands in.

    Args:
        model: the int8 model.
        output: the output's name.
        spread: largest minus least value that was seen of it.
    """
    path = _path(model.graph, output)
    step = _logit_step(model.graph, path[-1].input[0] if path else output)
    return _through(path, step, spread)


def plan_step(plan: Plan, output: str, spread: float) -> float:
    """The same for a format that rounds the logits themselves onto the plan's grid, as .tflite.

    Args:
        plan: what the file was made of.
        output, spread: as above.
    """
    path = _path(plan.model.graph, output)
    tensors = [output, *(node.input[0] for node in path)]
    # A moving operator may stand in float behind the last grid.
    steps = [plan.grids[name].scale for name in tensors if name in plan.grids]
    return _through(path, steps[-1] if steps else math.nan, spread)


def _through(path: list[NodeProto], step: float, spread: float) -> float:
    """What a step of the logits is in scores; ``path`` leads from the output back to the logits."""
    if not math.isfinite(step):
        return max(spread / 255, 1e-6)
    for node in reversed(path):
        if node.op_type == "Softmax":
            step = math.tanh(step / 2)
        elif node.op_type == "Sigmoid":
            step /= 4
        elif node.op_type == "LogSoftmax":
            step *= 2
    return step


def _logit_step(graph: GraphProto, tensor: str) -> float:
    makers = {output: node for node in graph.node for output in node.output}
    constants = {entry.name: entry for entry in graph.initializer}

    def values(name: str) -> FloatArray | None:
        entry = constants.get(name)
        return None if entry is None else np.asarray(numpy_helper.to_array(entry), np.float32)

    node = makers.get(tensor)
    if node is not None and node.op_type == "Add" and node.input[1] in constants:
        node = makers.get(node.input[0])  # a bias after its layer
    if node is None:
        return math.nan
    if node.op_type == "DequantizeLinear":
        scale = values(node.input[1])
        return math.nan if scale is None else float(np.max(scale))
    if node.op_type not in LAYER_OPS:
        return math.nan
    read, weight = (makers.get(name) for name in node.input[:2])
    if read is None or weight is None:
        return math.nan
    if read.op_type != "DequantizeLinear" or weight.op_type != "DequantizeLinear":
        return math.nan
    input_scale, whole, scales = (
        values(name) for name in (read.input[1], weight.input[0], weight.input[1])
    )
    if input_scale is None or whole is None or scales is None:
        return math.nan
    axis = next((a.i for a in weight.attribute if a.name == "axis"), 1)
    shape = [1] * whole.ndim
    shape[axis] = -1
    real = np.moveaxis(whole * scales.reshape(shape), axis, 0).reshape(whole.shape[axis], -1)
    return float(np.max(input_scale) * np.linalg.norm(real, axis=1).max())


def _path(graph: GraphProto, output: str) -> list[NodeProto]:
    """Nodes from ``output`` backwards that only move values or turn logits into scores."""
    makers = {output: node for node in graph.node for output in node.output}
    path: list[NodeProto] = []
    tensor = output
    while (node := makers.get(tensor)) is not None and (
        node.op_type in _MOVING_OPS or node.op_type in _SCORE_OPS
    ):
        path.append(node)
        tensor = node.input[0]
    return path
