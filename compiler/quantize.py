"""Write the int8 graph: onnxruntime's quantiser, QDQ form, driven by ranges of our own.

Weights are int8 per output channel and symmetric; activations are one scale a tensor, asymmetric,
int8 for ``s8s8`` and uint8 for ``u8s8``; biases are int32. A Softmax or Sigmoid at the very end
stays float: it costs next to nothing, and scores in steps of 1/256 tie where logits do not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, numpy_helper
from onnxruntime.quantization import QuantType
from onnxruntime.quantization.calibrate import CalibrationMethod, TensorData, TensorsData
from onnxruntime.quantization.qdq_quantizer import QDQQuantizer
from onnxruntime.quantization.registry import QDQRegistry, QLinearOpsRegistry

from compiler.errors import CompileError
from compiler.floatgraph import FloatGraph, first_line
from compiler.ranges import TensorStats
from edge_runtime.preprocess import FloatArray

ACTIVATIONS = {"s8s8": QuantType.QInt8, "u8s8": QuantType.QUInt8}

_SCORE_OPS = ("Softmax", "LogSoftmax", "Sigmoid")
_MOVING_OPS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Transpose")
"""Operators that change no value."""


@dataclass(frozen=True)
class Recipe:
    """How ranges follow from what calibration saw.

    share: of the values that each end of the range keeps; 1 keeps the extremes.
    """

    name: str
    share: float


PERCENTILE = Recipe("percentile-99.99", 0.9999)
MINMAX = Recipe("minmax", 1.0)
RECIPES = (PERCENTILE, MINMAX)
"""Candidates, the one to prefer on equal terms first."""


def quantize(
    graph: FloatGraph, stats: dict[str, TensorStats], scheme: str, recipe: Recipe
) -> bytes:
    """The int8 model as deterministic ONNX bytes.

    Args:
        graph: the float graph.
        stats: what calibration saw in every float tensor of ``graph.prepared``.
        scheme: ``s8s8`` or ``u8s8``.
        recipe: how ranges follow from ``stats``.

    Raises:
        CompileError: onnxruntime's quantiser cannot do it.
    """
    ranges = {}
    for name, tensor in stats.items():
        low, high = tensor.central(recipe.share)
        ranges[name] = TensorData(
            lowest=np.array(low, np.float32), highest=np.array(high, np.float32)
        )
    try:
        quantizer = QDQQuantizer(
            ModelProto.FromString(graph.prepared.SerializeToString()),
            per_channel=True,
            reduce_range=False,
            weight_qType=QuantType.QInt8,
            activation_qType=ACTIVATIONS[scheme],
            tensors_range=TensorsData(CalibrationMethod.MinMax, ranges),
            nodes_to_quantize=[],
            nodes_to_exclude=[node.name for node in score_nodes(graph.prepared.graph)],
            op_types_to_quantize=sorted({*QLinearOpsRegistry, *QDQRegistry}),
            extra_options={},
        )
        model = quantizer.quantize_model()
    # The quantiser raises ValueError, RuntimeError, KeyError, AssertionError and its own.
    except Exception as error:
        raise CompileError(
            f"onnxruntime's quantiser fails on this model: {first_line(error)}"
        ) from error
    # Recorded shapes weigh more than they help: the runtime infers them again.
    del model.graph.value_info[:]
    del model.metadata_props[:]
    data: bytes = model.SerializeToString(deterministic=True)
    return data


def score_nodes(graph: GraphProto) -> list[NodeProto]:
    """The Softmax, LogSoftmax or Sigmoid that makes the output, if one does."""
    return [node for node in _tail(graph) if node.op_type in _SCORE_OPS]


def score_step(model: ModelProto, scores: FloatArray) -> float:
    """How far one score moves when the last int8 tensor moves by one step.

    With ``s`` the scale of the last DequantizeLinear, no logit moves by more than ``s``. Through
    a softmax a probability then moves by at most ``tanh(s / 2)``: the odds change by at most a
    factor ``exp(2 s)``, which moves a probability most at one half. Through a sigmoid it is
    ``s / 4``, through a log-softmax ``2 s``. Where the last layers ran in float, 1/255 of the
    spread of ``scores`` stands in.

    Args:
        model: the int8 model.
        scores: float32 ``[n, classes]`` that it gave.
    """
    makers = {output: node for node in model.graph.node for output in node.output}
    step, path = math.nan, _tail(model.graph)
    start = makers.get(path[-1].input[0] if path else model.graph.output[0].name)
    if start is not None and start.op_type == "DequantizeLinear":
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        scale = constants.get(start.input[1])
        if scale is not None:
            step = float(np.max(numpy_helper.to_array(scale)))
    if not math.isfinite(step):
        return max(float(scores.max() - scores.min()) / 255, 1e-6)
    for node in reversed(path):
        if node.op_type == "Softmax":
            step = math.tanh(step / 2)
        elif node.op_type == "Sigmoid":
            step /= 4
        elif node.op_type == "LogSoftmax":
            step *= 2
    return step


def _tail(graph: GraphProto) -> list[NodeProto]:
    """Nodes from the output backwards that only move values or turn logits into scores."""
    makers = {output: node for node in graph.node for output in node.output}
    path: list[NodeProto] = []
    tensor = graph.output[0].name
    while (node := makers.get(tensor)) is not None and (
        node.op_type in _MOVING_OPS or node.op_type in _SCORE_OPS
    ):
        path.append(node)
        tensor = node.input[0]
    return path
