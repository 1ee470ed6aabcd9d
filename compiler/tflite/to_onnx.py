"""Convert a float .tflite file to an ONNX graph that looks like a native one.

Convolutions are NCHW with explicit pads, fused activations are Relu and Clip behind them, a zero
PAD before a convolution becomes its pads. Inputs and outputs keep the shapes of the file (images
stay NHWC there). Operators that no output needs are left out before anything is judged.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx

from compiler.errors import SourceError
from compiler.tflite import elementwise, layers, shaping
from compiler.tflite.graph import OnnxGraph
from compiler.tflite.read import ABSENT, READ_ERRORS, TfliteModel, TfliteOperator, read_tflite

OPSET = 18
"""From here on every reduction takes its axes as an operand."""

IR_VERSION = 8

_QUANTISED_TYPES = ("INT8", "UINT8", "INT16", "INT4", "INT2")

_SHAPE_OPERANDS = {
    "RESHAPE": 1,
    "EXPAND_DIMS": 1,
    "RESIZE_BILINEAR": 1,
    "RESIZE_NEAREST_NEIGHBOR": 1,
    "TRANSPOSE_CONV": 0,
}
"""Operands that say a shape which the output tensor says too: nothing need compute them."""

Converter = Callable[[OnnxGraph, TfliteOperator], None]

CONVERTERS: dict[str, Converter] = {
    "CONV_2D": layers.convert_conv,
    "DEPTHWISE_CONV_2D": layers.convert_depthwise_conv,
    "TRANSPOSE_CONV": layers.convert_transpose_conv,
    "FULLY_CONNECTED": layers.convert_dense,
    "BATCH_MATMUL": layers.convert_batch_matmul,
    "AVERAGE_POOL_2D": layers.convert_pool,
    "MAX_POOL_2D": layers.convert_pool,
    **dict.fromkeys(elementwise.UNARY, elementwise.convert_unary),
    **dict.fromkeys(elementwise.BINARY, elementwise.convert_binary),
    **dict.fromkeys(elementwise.CLIPS, elementwise.convert_clip),
    "LEAKY_RELU": elementwise.convert_leaky_relu,
    "PRELU": elementwise.convert_prelu,
    "RSQRT": elementwise.convert_rsqrt,
    "SQUARE": elementwise.convert_square,
    "SQUARED_DIFFERENCE": elementwise.convert_square,
    "SOFTMAX": elementwise.convert_softmax,
    "LOG_SOFTMAX": elementwise.convert_softmax,
    "L2_NORMALIZATION": elementwise.convert_l2_normalization,
    "RESHAPE": shaping.convert_reshape,
    "SQUEEZE": shaping.convert_reshape,
    "EXPAND_DIMS": shaping.convert_reshape,
    "TRANSPOSE": shaping.convert_transpose,
    "CONCATENATION": shaping.convert_concatenation,
    "PACK": shaping.convert_pack,
    "UNPACK": shaping.convert_unpack,
    "GATHER": shaping.convert_gather,
    "SPLIT": shaping.convert_split,
    "SPLIT_V": shaping.convert_split,
    "SLICE": shaping.convert_slice,
    "STRIDED_SLICE": shaping.convert_strided_slice,
    "PAD": shaping.convert_pad,
    "PADV2": shaping.convert_pad,
    "MIRROR_PAD": shaping.convert_pad,
    "RESIZE_BILINEAR": shaping.convert_resize,
    "RESIZE_NEAREST_NEIGHBOR": shaping.convert_resize,
    "MEAN": shaping.convert_reduction,
    "SUM": shaping.convert_reduction,
    "REDUCE_MAX": shaping.convert_reduction,
    "REDUCE_MIN": shaping.convert_reduction,
    "SPACE_TO_DEPTH": shaping.convert_blocks,
    "DEPTH_TO_SPACE": shaping.convert_blocks,
    "CAST": shaping.convert_cast,
}
"""Every operator that is converted. Float16 weights behind a DEQUANTIZE are widened beside it."""


def tflite_to_onnx(file_name: str, data: bytes) -> onnx.ModelProto:
    """Convert the bytes of a float .tflite file.

    Args:
        file_name: for messages.
        data: the whole file.

    Returns:
        Opset 18; deterministic for the same bytes. Weights are copied, nothing points at ``data``.

    Raises:
        SourceError: not .tflite, damaged, quantised already, NaN or infinite weights, or with
            operators that are not converted (all of them are listed, with their places).
    """
    model = read_tflite(file_name, data)
    operators = _needed_operators(model)
    _refuse_quantised(model, operators)
    _refuse_missing(model, operators)
    try:
        graph = OnnxGraph(model)
        for op in operators:
            graph.operator = op
            if not _only_widens(model, op):
                CONVERTERS[op.kind](graph, op)
        return graph.finish(OPSET, IR_VERSION)
    # A file whose offsets are sound can still hold operators that contradict their tensors.
    except (*READ_ERRORS, KeyError, ZeroDivisionError) as error:
        where = f"{graph.operator.sentence()}," if operators else "the graph"
        raise SourceError(
            f"{file_name} is damaged: {where} does not fit its tensors or options: {error}",
            hint="fetch or export the file again",
        ) from error


def _needed_operators(model: TfliteModel) -> list[TfliteOperator]:
    """The operators that an output depends on, in the file's order (which is executable)."""
    needed = set(model.outputs)
    kept = []
    for op in reversed(model.operators):
        if needed.intersection(op.outputs):
            skipped = _SHAPE_OPERANDS.get(op.kind)
            needed.update(index for place, index in enumerate(op.inputs) if place != skipped)
            kept.append(op)
    return kept[::-1]


def _only_widens(model: TfliteModel, op: TfliteOperator) -> bool:
    """Whether this is the DEQUANTIZE of a float16 constant."""
    if op.kind != "DEQUANTIZE" or not op.inputs or op.inputs[0] == ABSENT:
        return False
    source = model.tensors[op.inputs[0]]
    return source.dtype == "FLOAT16" and source.data is not None


def _refuse_quantised(model: TfliteModel, operators: list[TfliteOperator]) -> None:
    for op in operators:
        for index in (*op.inputs, *op.outputs):
            if index == ABSENT:
                continue
            tensor = model.tensors[index]
            if tensor.quantised and tensor.dtype in _QUANTISED_TYPES:
                raise SourceError(
                    f"{model.file_name} is quantised already: {op.sentence()}, works on the"
                    f" {tensor.dtype.lower()} tensor {tensor.name!r}",
                    hint="give the float model that it was made from",
                )


def _refuse_missing(model: TfliteModel, operators: list[TfliteOperator]) -> None:
    missing: dict[str, list[TfliteOperator]] = {}
    for op in operators:
        if op.kind not in CONVERTERS and not _only_widens(model, op):
            missing.setdefault(op.kind, []).append(op)
    if not missing:
        return
    lines = []
    for kind, ops in sorted(missing.items()):
        places = ", ".join(str(op.index) for op in ops[:8]) + (", ..." if len(ops) > 8 else "")
        made = [model.tensors[i].name for i in ops[0].outputs[:1] if i != ABSENT]
        lines.append(f"{kind} (operator {places}; makes {made[0] if made else '?'!r})")
    detection = any("Detection_PostProcess" in kind for kind in missing)
    raise SourceError(
        f"{model.file_name}: {len(missing)} kinds of operators are not converted:"
        f" {'; '.join(lines[:20])}",
        hint="export the model without its post-processing: raw boxes and scores as outputs"
        if detection
        else "replace them in the model, or export it to ONNX with the trainer's own exporter",
    )
