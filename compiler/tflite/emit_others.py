"""Write everything that is no layer into a .tflite file: values moved, joined, added, squashed."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto

from compiler.errors import CompileError
from compiler.tflite.emit_layers import attributes_of
from compiler.tflite.tensors import TO_NCHW, TO_NHWC, PlannedTensors

_NO_OPTIONS = ""
_BINARY = {
    "Add": ("ADD", "AddOptions"),
    "Sub": ("SUB", "SubOptions"),
    "Mul": ("MUL", "MulOptions"),
    "Div": ("DIV", "DivOptions"),
    "Max": ("MAXIMUM", "MaximumMinimumOptions"),
    "Min": ("MINIMUM", "MaximumMinimumOptions"),
    "Pow": ("POW", "PowOptions"),
}
_UNARY = {
    "Abs": ("ABS", "AbsOptions"),
    "Elu": ("ELU", _NO_OPTIONS),
    "Exp": ("EXP", "ExpOptions"),
    "HardSwish": ("HARD_SWISH", "HardSwishOptions"),
    "Log": ("LOG", _NO_OPTIONS),
    "Neg": ("NEG", "NegOptions"),
    "PRelu": ("PRELU", _NO_OPTIONS),
    "Relu": ("RELU", _NO_OPTIONS),
    "Sigmoid": ("LOGISTIC", _NO_OPTIONS),
    "Sqrt": ("SQRT", _NO_OPTIONS),
    "Tanh": ("TANH", _NO_OPTIONS),
}
ELEMENTWISE = frozenset({*_BINARY, *_UNARY, "LeakyRelu"})
_CLIPS = {(0.0, 6.0): "RELU6", (-1.0, 1.0): "RELU_N1_TO_1"}
_LAST = -1


def emit_elementwise(tensors: PlannedTensors, node: NodeProto) -> None:
    """One operator of TensorFlow Lite, in the layout that its inputs have."""
    int8 = tensors.is_int8(node)
    nhwc = tensors.prefers_nhwc(*node.input)
    inputs = [tensors.get(name, int8=int8, nhwc=nhwc) for name in node.input]
    if node.op_type == "LeakyRelu":
        tensors.put(
            node,
            "LEAKY_RELU",
            2 if int8 else 1,
            inputs,
            int8=int8,
            nhwc=nhwc,
            table="LeakyReluOptions",
            alpha=float(attributes_of(node).get("alpha", 0.01)),
        )
        return
    kind, table = (_BINARY | _UNARY)[node.op_type]
    if node.op_type == "Elu" and attributes_of(node).get("alpha", 1.0) != 1.0:
        raise CompileError(f"Elu {node.name!r} has an alpha, which TensorFlow Lite has not")
    tensors.put(node, kind, 2 if int8 else 1, inputs, int8=int8, nhwc=nhwc, table=table)


def emit_clip(tensors: PlannedTensors, node: NodeProto) -> None:
    """A Clip that no saturation performs."""
    bounds = []
    for place, missing in ((1, -np.inf), (2, np.inf)):
        given = len(node.input) > place and node.input[place]
        bounds.append(float(tensors.known(node, place).reshape(())) if given else missing)
    nhwc = tensors.prefers_nhwc(node.input[0])
    value = tensors.get(node.input[0], int8=False, nhwc=nhwc)
    kind = _CLIPS.get((bounds[0], bounds[1]))
    if kind:
        tensors.put(node, kind, 1, [value], int8=False, nhwc=nhwc)
        return
    between = tensors.add_like(node.input[0], int8=False, nhwc=nhwc)
    table = "MaximumMinimumOptions"
    low, high = (tensors.floats(np.clip(bound, *_finite())) for bound in bounds)
    tensors.step("MAXIMUM", 1, [value, low], between, table)
    tensors.put(node, "MINIMUM", 1, [between, high], int8=False, nhwc=nhwc, table=table)


def emit_hard_sigmoid(tensors: PlannedTensors, node: NodeProto) -> None:
    """HardSigmoid: ``max(0, min(1, alpha * x + beta))`` spelled out."""
    attributes = attributes_of(node)
    nhwc = tensors.prefers_nhwc(node.input[0])
    value = tensors.get(node.input[0], int8=False, nhwc=nhwc)

    def new() -> int:
        return tensors.add_like(node.input[0], int8=False, nhwc=nhwc)

    alpha = tensors.floats(float(attributes.get("alpha", 0.2)))
    beta = tensors.floats(float(attributes.get("beta", 0.5)))
    value = tensors.step("MUL", 1, [value, alpha], new(), "MulOptions")
    value = tensors.step("ADD", 1, [value, beta], new(), "AddOptions")
    value = tensors.step("MAXIMUM", 1, [value, tensors.floats(0.0)], new(), "MaximumMinimumOptions")
    tensors.put(
        node,
        "MINIMUM",
        1,
        [value, tensors.floats(1.0)],
        int8=False,
        nhwc=nhwc,
        table="MaximumMinimumOptions",
    )


def emit_batch_norm(tensors: PlannedTensors, node: NodeProto) -> None:
    """A BatchNormalization that no layer before it could take in: a factor and a summand a channel,
    in float.

    Raises:
        CompileError: it trains, or computes its statistics.
    """
    attributes = attributes_of(node)
    if attributes.get("training_mode", 0):
        raise CompileError(
            f"BatchNormalization {node.name!r} is in training mode: its answers hang on the batch",
            hint="export the model in inference mode",
        )
    scale, shift, mean, variance = (
        np.asarray(tensors.known(node, place), np.float64) for place in range(1, 5)
    )
    factor = scale / np.sqrt(variance + float(attributes.get("epsilon", 1e-5)))
    nhwc = tensors.prefers_nhwc(node.input[0])
    behind = 0 if nhwc else max(len(tensors.shape(node.input[0])) - 2, 0)
    channels = (-1, *[1] * behind)
    factors, summands = (
        tensors.floats(one.astype(np.float32).reshape(channels))
        for one in (factor, shift - mean * factor)
    )
    value = tensors.get(node.input[0], int8=False, nhwc=nhwc)
    scaled = tensors.add_like(node.input[0], int8=False, nhwc=nhwc)
    tensors.step("MUL", 1, [value, factors], scaled, "MulOptions")
    tensors.put(node, "ADD", 1, [scaled, summands], int8=False, nhwc=nhwc, table="AddOptions")


def emit_concat(tensors: PlannedTensors, node: NodeProto) -> None:
    """Concat; int8 inputs are first brought onto the grid of the output, as the kernel demands."""
    int8 = tensors.is_int8(node)
    nhwc = tensors.prefers_nhwc(*node.input)
    axis = int(attributes_of(node)["axis"]) % len(tensors.shape(node.output[0]))
    inputs = []
    target = tensors.written_as.get(node.output[0], node.output[0])
    for name in node.input:
        value = tensors.get(name, int8=int8, nhwc=nhwc)
        if int8 and tensors.grid(name) != tensors.grid(target):
            fitted = tensors.add_like(name, int8=True, nhwc=nhwc, grid=tensors.grid(target))
            value = tensors.step("QUANTIZE", 2, [value], fitted, "QuantizeOptions")
        inputs.append(value)
    tensors.put(
        node,
        "CONCATENATION",
        2 if int8 else 1,
        inputs,
        int8=int8,
        nhwc=nhwc,
        table="ConcatenationOptions",
        axis=TO_NHWC.index(axis) if nhwc else axis,
    )


def emit_reshape(tensors: PlannedTensors, node: NodeProto) -> None:
    """Reshape, Flatten, Squeeze and Unsqueeze. From NHWC directly, if no element moves by it."""
    int8 = tensors.is_int8(node)
    source = node.input[0]
    shape = tensors.shape(source)
    still = len(shape) == 4 and (shape[1] == 1 or shape[2] == shape[3] == 1)
    value = tensors.get(source, int8=int8, nhwc=still and tensors.prefers_nhwc(source))
    sizes = list(tensors.shape(node.output[0]))
    tensors.put(
        node,
        "RESHAPE",
        1,
        [value, tensors.integers(sizes)],
        int8=int8,
        nhwc=False,
        grid=tensors.grid(source) if int8 else None,
        table="ReshapeOptions",
        newShape=sizes,
    )


def emit_transpose(tensors: PlannedTensors, node: NodeProto) -> None:
    """Transpose; one between NHWC and NCHW only renames the axes of what is there."""
    int8 = tensors.is_int8(node)
    source = node.input[0]
    rank = len(tensors.shape(source))
    order = tuple(attributes_of(node).get("perm", range(rank)[::-1]))
    target = tensors.written_as.get(node.output[0], node.output[0])
    moves_only = not int8 or tensors.grid(source) == tensors.grid(target)
    if order == TO_NCHW and moves_only:
        tensors.alias(node, source=(source, int8, False), nhwc=True)
        return
    if order == TO_NHWC and moves_only:
        tensors.alias(node, source=(source, int8, True), nhwc=False)
        return
    tensors.put(
        node,
        "TRANSPOSE",
        2 if int8 else 1,
        [tensors.get(source, int8=int8, nhwc=False), tensors.integers(order)],
        int8=int8,
        nhwc=False,
        grid=tensors.grid(source) if int8 else None,
        table="TransposeOptions",
    )


def emit_identity(tensors: PlannedTensors, node: NodeProto) -> None:
    """Identity and Dropout: nothing, unless the plan gives both sides grids of their own."""
    int8 = tensors.is_int8(node)
    source = node.input[0]
    nhwc = tensors.prefers_nhwc(source)
    target = tensors.written_as.get(node.output[0], node.output[0])
    if int8 and tensors.grid(source) != tensors.grid(target):
        value = tensors.get(source, int8=True, nhwc=nhwc)
        tensors.put(node, "QUANTIZE", 2, [value], int8=True, nhwc=nhwc, table="QuantizeOptions")
        return
    tensors.alias(node, source=(source, int8, nhwc), nhwc=nhwc)


def emit_softmax(tensors: PlannedTensors, node: NodeProto) -> None:
    """Softmax and LogSoftmax over the last axis, or over the channels of an image."""
    rank = len(tensors.shape(node.input[0]))
    axis = int(attributes_of(node).get("axis", _LAST)) % rank
    nhwc = rank == 4 and axis == 1
    if not nhwc and axis != rank - 1:
        raise CompileError(
            f"{node.op_type} {node.name!r} runs along axis {axis} of {rank}; TensorFlow Lite has"
            " it along the last axis, or along the channels of an image"
        )
    value = tensors.get(node.input[0], int8=False, nhwc=nhwc)
    if node.op_type == "LogSoftmax":
        tensors.put(
            node, "LOG_SOFTMAX", 1, [value], int8=False, nhwc=nhwc, table="LogSoftmaxOptions"
        )
        return
    tensors.put(
        node, "SOFTMAX", 1, [value], int8=False, nhwc=nhwc, table="SoftmaxOptions", beta=1.0
    )


def emit_mean(tensors: PlannedTensors, node: NodeProto) -> None:
    """ReduceMean in ONNX's order of axes."""
    attributes = attributes_of(node)
    rank = len(tensors.shape(node.input[0]))
    axes = attributes.get("axes")
    if axes is None:
        given = len(node.input) > 1 and node.input[1]
        axes = tensors.known(node, 1).reshape(-1).tolist() if given else list(range(rank))
    keep = bool(attributes.get("keepdims", 1))
    nhwc = keep and tensors.prefers_nhwc(node.input[0])
    places = sorted({TO_NHWC.index(axis % rank) if nhwc else axis % rank for axis in axes})
    value = tensors.get(node.input[0], int8=False, nhwc=nhwc)
    tensors.put(
        node,
        "MEAN",
        1,
        [value, tensors.integers(places)],
        int8=False,
        nhwc=nhwc,
        table="ReducerOptions",
        keepDims=keep,
    )


def emit_pad(tensors: PlannedTensors, node: NodeProto) -> None:
    """Pad by a constant."""
    attributes = attributes_of(node)
    rank = len(tensors.shape(node.input[0]))
    amounts = tensors.known(node, 1).reshape(2, -1).T
    wide = attributes.get("mode", b"constant") != b"constant" or amounts.min() < 0
    if wide or len(amounts) != rank or (len(node.input) > 3 and node.input[3]):
        raise CompileError(
            f"Pad {node.name!r} mirrors, repeats, crops or names axes, which is not written"
        )
    value = 0.0
    if len(node.input) > 2 and node.input[2]:
        value = float(tensors.known(node, 2).reshape(-1)[0])
    nhwc = tensors.prefers_nhwc(node.input[0])
    if nhwc:
        amounts = amounts[list(TO_NHWC)]
    inputs = [
        tensors.get(node.input[0], int8=False, nhwc=nhwc),
        tensors.integers(amounts),
        tensors.floats(np.array([value])),
    ]
    tensors.put(node, "PADV2", 1, inputs, int8=False, nhwc=nhwc, table="PadV2Options")


def _finite() -> tuple[float, float]:
    limits = np.finfo(np.float32)
    return float(limits.min), float(limits.max)
