"""Operators that work value by value, on whatever layout their input has."""

from __future__ import annotations

from compiler.tflite.graph import NCHW, NHWC, RELU6, RELU_N1_TO_1, OnnxGraph
from compiler.tflite.read import TfliteOperator

UNARY = {
    "ABS": "Abs",
    "ELU": "Elu",
    "EXP": "Exp",
    "FLOOR": "Floor",
    "HARD_SWISH": "HardSwish",
    "LOG": "Log",
    "LOGISTIC": "Sigmoid",
    "NEG": "Neg",
    "RELU": "Relu",
    "SQRT": "Sqrt",
    "TANH": "Tanh",
}
BINARY = {
    "ADD": "Add",
    "DIV": "Div",
    "MAXIMUM": "Max",
    "MINIMUM": "Min",
    "MUL": "Mul",
    "POW": "Pow",
    "SUB": "Sub",
}
CLIPS = {"RELU6": RELU6, "RELU_N1_TO_1": RELU_N1_TO_1}


def common_layout(graph: OnnxGraph, op: TfliteOperator) -> str:
    """NCHW if one input came in it and the others can, else as in the file."""
    computed = [index for index in op.inputs if graph.constant(index) is None]
    ranks = {graph.rank(index) for index in computed}
    if ranks == {4} and any(graph.is_nchw(index) for index in computed):
        constants = set(op.inputs) - set(computed)
        if all(graph.rank(index) <= 4 for index in constants):
            return NCHW
    return NHWC


def convert_unary(graph: OnnxGraph, op: TfliteOperator) -> None:
    """One operand, one ONNX operator."""
    layout = common_layout(graph, op)
    graph.put(op.outputs[0], layout, UNARY[op.kind], [graph.value(op.inputs[0], layout)])


def convert_binary(graph: OnnxGraph, op: TfliteOperator) -> None:
    """Two operands that broadcast, and perhaps a fused activation."""
    left, right = op.inputs
    layout = common_layout(graph, op)
    inputs = [graph.value(left, layout), graph.value(right, layout)]
    activation = op.options.get("FusedActivationFunction", 0)
    graph.put(op.outputs[0], layout, BINARY[op.kind], inputs, activation=activation)


def convert_clip(graph: OnnxGraph, op: TfliteOperator) -> None:
    """RELU6 and RELU_N1_TO_1 that stand alone."""
    layout = common_layout(graph, op)
    low, high = (0.0, 6.0) if CLIPS[op.kind] == RELU6 else (-1.0, 1.0)
    value = graph.value(op.inputs[0], layout)
    graph.put(op.outputs[0], layout, "Clip", [value, graph.scalar(low), graph.scalar(high)])


def convert_leaky_relu(graph: OnnxGraph, op: TfliteOperator) -> None:
    """LEAKY_RELU."""
    layout = common_layout(graph, op)
    value = graph.value(op.inputs[0], layout)
    graph.put(op.outputs[0], layout, "LeakyRelu", [value], alpha=float(op.options["Alpha"]))


def convert_prelu(graph: OnnxGraph, op: TfliteOperator) -> None:
    """PRELU; the slopes broadcast from behind, as in ONNX."""
    layout = common_layout(graph, op)
    inputs = [graph.value(index, layout) for index in op.inputs]
    graph.put(op.outputs[0], layout, "PRelu", inputs)


def convert_rsqrt(graph: OnnxGraph, op: TfliteOperator) -> None:
    """RSQRT: one over the square root."""
    layout = common_layout(graph, op)
    root = graph.step("Sqrt", [graph.value(op.inputs[0], layout)])
    graph.put(op.outputs[0], layout, "Reciprocal", [root])


def convert_square(graph: OnnxGraph, op: TfliteOperator) -> None:
    """SQUARE and SQUARED_DIFFERENCE."""
    layout = common_layout(graph, op)
    if op.kind == "SQUARE":
        value = graph.value(op.inputs[0], layout)
    else:
        left, right = op.inputs
        value = graph.step("Sub", [graph.value(left, layout), graph.value(right, layout)])
    graph.put(op.outputs[0], layout, "Mul", [value, value])


def convert_softmax(graph: OnnxGraph, op: TfliteOperator) -> None:
    """SOFTMAX and LOG_SOFTMAX over the last axis of the file's layout."""
    layout = common_layout(graph, op)
    value = graph.value(op.inputs[0], layout)
    beta = float(op.options.get("Beta", 1.0))
    if beta != 1.0:
        value = graph.step("Mul", [value, graph.scalar(beta)])
    kind = "Softmax" if op.kind == "SOFTMAX" else "LogSoftmax"
    graph.put(op.outputs[0], layout, kind, [value], axis=1 if layout == NCHW else -1)


def convert_l2_normalization(graph: OnnxGraph, op: TfliteOperator) -> None:
    """L2_NORMALIZATION over the last axis of the file's layout."""
    layout = common_layout(graph, op)
    graph.put(
        op.outputs[0],
        layout,
        "LpNormalization",
        [graph.value(op.inputs[0], layout)],
        activation=op.options.get("FusedActivationFunction", 0),
        axis=1 if layout == NCHW else -1,
        p=2,
    )
