"""Operators that move values: reshape, join, cut, pad, resize, reduce."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from compiler.errors import SourceError
from compiler.tflite.elementwise import common_layout
from compiler.tflite.graph import NCHW, NHWC, TO_NCHW, OnnxGraph
from compiler.tflite.layers import SIZE_MAX
from compiler.tflite.read import TfliteOperator

_REDUCTIONS = {
    "MEAN": "ReduceMean",
    "SUM": "ReduceSum",
    "REDUCE_MAX": "ReduceMax",
    "REDUCE_MIN": "ReduceMin",
}
_MIRRORS = ("reflect", "edge")
_CASTS = {0: TensorProto.FLOAT, 2: TensorProto.INT32, 4: TensorProto.INT64, 6: TensorProto.BOOL}


def convert_reshape(graph: OnnxGraph, op: TfliteOperator) -> None:
    """RESHAPE, SQUEEZE and EXPAND_DIMS: the same elements under another shape.

    The shape is that of the output tensor; an exporter's own shape arithmetic (SHAPE,
    STRIDED_SLICE, PACK before a RESHAPE) is not needed. A free batch axis is carried over.
    """
    source, target = graph.tensor(op.inputs[0]), graph.tensor(op.outputs[0])
    sizes = [-1 if free else size for size, free in zip(target.shape, target.free, strict=True)]
    if op.kind == "RESHAPE" and len(op.inputs) > 1:
        wanted = graph.constant(op.inputs[1])
        if wanted is not None and wanted.size == len(sizes):
            sizes = [int(size) for size in wanted.reshape(-1)]
    carried = bool(source.free and source.free[0] and sizes)
    if carried and (sizes[0] == source.shape[0] or sizes.count(-1) > 1):
        sizes[0] = 0
    if sizes.count(-1) > 1:
        raise SourceError(
            f"{graph.model.file_name}: {op.sentence()}, leaves more than one axis open",
            hint="export the model with a fixed input size; only the batch axis may be free",
        )
    value = graph.flat_value(op.inputs[0])
    graph.put(op.outputs[0], NHWC, "Reshape", [value, graph.shape(sizes)])


def convert_transpose(graph: OnnxGraph, op: TfliteOperator) -> None:
    """TRANSPOSE."""
    order = [int(axis) for axis in graph.known(op.inputs[1])]
    if sorted(order) != list(range(graph.rank(op.inputs[0]))):
        raise ValueError(f"an order of axes {order}")
    graph.put(op.outputs[0], NHWC, "Transpose", [graph.value(op.inputs[0], NHWC)], perm=order)


def convert_concatenation(graph: OnnxGraph, op: TfliteOperator) -> None:
    """CONCATENATION."""
    layout = common_layout(graph, op)
    if any(graph.rank(index) != graph.rank(op.outputs[0]) for index in op.inputs):
        raise ValueError("inputs of unequal ranks")
    axis = _axis(int(op.options["Axis"]), graph.rank(op.outputs[0]), layout)
    inputs = [graph.value(index, layout) for index in op.inputs]
    activation = op.options["FusedActivationFunction"]
    graph.put(op.outputs[0], layout, "Concat", inputs, activation=activation, axis=axis)


def convert_pack(graph: OnnxGraph, op: TfliteOperator) -> None:
    """PACK: join along a new axis."""
    axis = _axis(int(op.options["Axis"]), graph.rank(op.outputs[0]), NHWC)
    rows = [
        graph.step("Unsqueeze", [graph.value(index, NHWC), graph.shape([axis])])
        for index in op.inputs
    ]
    graph.put(op.outputs[0], NHWC, "Concat", rows, axis=axis)


def convert_unpack(graph: OnnxGraph, op: TfliteOperator) -> None:
    """UNPACK: cut along an axis that goes away."""
    axis = _axis(int(op.options["Axis"]), graph.rank(op.inputs[0]), NHWC)
    value = graph.value(op.inputs[0], NHWC)
    for place, output in enumerate(op.outputs):
        index = graph.add_constant(np.array(place, np.int64), ("index", place))
        graph.put(output, NHWC, "Gather", [value, index], axis=axis)


def convert_gather(graph: OnnxGraph, op: TfliteOperator) -> None:
    """GATHER without batch axes."""
    if op.options.get("BatchDims", 0):
        raise SourceError(f"{graph.model.file_name}: {op.sentence()}, has batch axes")
    values, indices = (graph.value(index, NHWC) for index in op.inputs)
    axis = _axis(int(op.options["Axis"]), graph.rank(op.inputs[0]), NHWC)
    graph.put(op.outputs[0], NHWC, "Gather", [values, indices], axis=axis)


def convert_split(graph: OnnxGraph, op: TfliteOperator) -> None:
    """SPLIT (axis first) and SPLIT_V (sizes second, axis third)."""
    even = op.kind == "SPLIT"
    source = op.inputs[1] if even else op.inputs[0]
    axis_operand = op.inputs[0] if even else op.inputs[2]
    layout = NCHW if graph.is_nchw(source) else NHWC
    axis = int(graph.known(axis_operand).reshape(-1)[0])
    sizes = [graph.tensor(output).shape[axis] for output in op.outputs]
    graph.put_many(
        op.outputs,
        layout,
        "Split",
        [graph.value(source, layout), graph.shape(sizes)],
        axis=_axis(axis, graph.rank(source), layout),
    )


def convert_slice(graph: OnnxGraph, op: TfliteOperator) -> None:
    """SLICE: begin and size; a size of -1 reaches to the end."""
    begin = [int(value) for value in graph.known(op.inputs[1]).reshape(-1)]
    size = [int(value) for value in graph.known(op.inputs[2]).reshape(-1)]
    end = [
        SIZE_MAX if count == -1 else start + count for start, count in zip(begin, size, strict=True)
    ]
    # An axis that is kept whole is left out, so that a free batch axis stays free.
    shape = graph.tensor(op.inputs[0]).shape
    axes = [
        axis for axis in range(len(shape)) if not (begin[axis] == 0 and (end[axis] >= shape[axis]))
    ]
    value = graph.value(op.inputs[0], NHWC)
    inputs = [value, *(graph.shape([row[axis] for axis in axes]) for row in (begin, end))]
    graph.put(op.outputs[0], NHWC, "Slice", [*inputs, graph.shape(axes)])


def convert_strided_slice(graph: OnnxGraph, op: TfliteOperator) -> None:
    """STRIDED_SLICE without ellipsis and new axes.

    Bit ``a`` of a mask speaks of axis ``a``: begin or end ignored, or the axis dropped after
    one entry was taken.
    """
    if op.options["EllipsisMask"] or op.options["NewAxisMask"]:
        raise SourceError(
            f"{graph.model.file_name}: {op.sentence()}, has an ellipsis or a new axis, which is"
            " not converted"
        )
    begin, end, strides = (
        [int(value) for value in graph.known(index).reshape(-1)] for index in op.inputs[1:4]
    )
    starts, ends, axes, steps, dropped = [], [], [], [], []
    for axis, (start, stop, step) in enumerate(zip(begin, end, strides, strict=True)):
        if step == 0:
            raise ValueError("a stride of 0")
        if op.options["ShrinkAxisMask"] >> axis & 1:
            dropped.append(axis)
            stop, step = start + 1 if start != -1 else SIZE_MAX, 1
        else:
            far, near = (SIZE_MAX, 0) if step > 0 else (-SIZE_MAX, SIZE_MAX)
            start = near if op.options["BeginMask"] >> axis & 1 else start
            stop = far if op.options["EndMask"] >> axis & 1 else stop
        if (start, stop, step) != (0, SIZE_MAX, 1):
            starts.append(start)
            ends.append(stop)
            axes.append(axis)
            steps.append(step)
    inputs = [graph.value(op.inputs[0], NHWC)]
    inputs += [graph.shape(row) for row in (starts, ends, axes, steps)]
    if not dropped:
        graph.put(op.outputs[0], NHWC, "Slice", inputs)
        return
    part = graph.step("Slice", inputs)
    graph.put(op.outputs[0], NHWC, "Squeeze", [part, graph.shape(dropped)])


def convert_pad(graph: OnnxGraph, op: TfliteOperator) -> None:
    """PAD (zero), PADV2 (a constant) and MIRROR_PAD."""
    source = op.inputs[0]
    amounts = graph.known(op.inputs[1])
    if amounts.shape != (graph.rank(source), 2) or abs(amounts).max(initial=0) > SIZE_MAX:
        raise ValueError(f"pads of shape {list(amounts.shape)}")
    layout = NCHW if graph.is_nchw(source) else NHWC
    if layout == NCHW:
        amounts = amounts[list(TO_NCHW)]
    inputs = [graph.value(source, layout), graph.shape(amounts.T.reshape(-1).tolist())]
    mode = "constant"
    if op.kind == "PADV2":
        inputs.append(graph.scalar(float(graph.known(op.inputs[2]).reshape(-1)[0])))
    elif op.kind == "MIRROR_PAD":
        # The schema's REFLECT leaves the border out; its SYMMETRIC repeats it, which ONNX's
        # "edge" equals for pads of at most one.
        mode = _MIRRORS[int(op.options["Mode"])]
        if mode == "edge" and amounts.max(initial=0) > 1:
            raise SourceError(
                f"{graph.model.file_name}: {op.sentence()}, mirrors with the border repeated,"
                " which ONNX has not"
            )
    graph.put(op.outputs[0], layout, "Pad", inputs, mode=mode)


def convert_resize(graph: OnnxGraph, op: TfliteOperator) -> None:
    """RESIZE_BILINEAR and RESIZE_NEAREST_NEIGHBOR to the output tensor's size.

    Nearest takes ``floor((x + 0.5) * scale)`` with half-pixel centres, which is ONNX's
    half_pixel rounded half up, ``floor(x * scale)`` without, and rounds with aligned corners.
    """
    height, width = graph.tensor(op.outputs[0]).shape[1:3]
    if any(graph.tensor(op.outputs[0]).free[1:]) or not 0 < height * width <= SIZE_MAX:
        raise SourceError(
            f"{graph.model.file_name}: {op.sentence()}, resizes to no fixed size",
            hint="export the model with a fixed input size; only the batch axis may be free",
        )
    # Scales, not sizes: sizes would fix the batch axis.
    before = graph.tensor(op.inputs[0]).shape[1:3]
    rows, columns = (
        _scale(size, wanted) for size, wanted in zip(before, (height, width), strict=True)
    )
    scales = graph.add_constant(
        np.array([1, 1, rows, columns], np.float32), ("scales", rows, columns)
    )
    corners, centres = op.options["AlignCorners"], op.options["HalfPixelCenters"]
    where = "align_corners" if corners else "half_pixel" if centres else "asymmetric"
    linear = op.kind == "RESIZE_BILINEAR"
    attributes: dict[str, Any] = {"mode": "linear"}
    if not linear:
        rounding = "floor" if where == "asymmetric" else "round_prefer_ceil"
        attributes = {"mode": "nearest", "nearest_mode": rounding}
    graph.put(
        op.outputs[0],
        NCHW,
        "Resize",
        [graph.value(op.inputs[0], NCHW), "", scales],
        coordinate_transformation_mode=where,
        **attributes,
    )


def _scale(size: int, wanted: int) -> float:
    """The float32 factor by which ``floor(size * factor)`` is ``wanted``."""
    factor = np.float32(wanted / size)
    if int(np.float32(size) * factor) < wanted:
        factor = np.nextafter(factor, np.float32(np.inf))
    return float(factor)


def convert_reduction(graph: OnnxGraph, op: TfliteOperator) -> None:
    """MEAN, SUM, REDUCE_MAX and REDUCE_MIN; a mean over height and width pools globally."""
    source, keep = op.inputs[0], bool(op.options.get("KeepDims"))
    rank = graph.rank(source)
    axes = sorted({_axis(int(a), rank, NHWC) for a in graph.known(op.inputs[1]).reshape(-1)})
    if op.kind == "MEAN" and rank == 4 and axes == [1, 2]:
        pooled = graph.value(source, NCHW)
        if keep:
            graph.put(op.outputs[0], NCHW, "GlobalAveragePool", [pooled])
        else:
            pooled = graph.step("GlobalAveragePool", [pooled])
            graph.put(op.outputs[0], NHWC, "Flatten", [pooled], axis=1)
        return
    layout = NCHW if keep and graph.is_nchw(source) else NHWC
    axes = sorted(_axis(axis, rank, layout) for axis in axes)
    inputs = [graph.value(source, layout), graph.shape(axes)]
    graph.put(op.outputs[0], layout, _REDUCTIONS[op.kind], inputs, keepdims=int(keep))


def convert_blocks(graph: OnnxGraph, op: TfliteOperator) -> None:
    """SPACE_TO_DEPTH and DEPTH_TO_SPACE; channels are blocks of all depths, as in ONNX's DCR."""
    block = int(op.options["BlockSize"])
    if not 1 <= block <= SIZE_MAX:
        raise ValueError(f"a block of {block}")
    kind = "SpaceToDepth" if op.kind == "SPACE_TO_DEPTH" else "DepthToSpace"
    graph.put(op.outputs[0], NCHW, kind, [graph.value(op.inputs[0], NCHW)], blocksize=block)


def convert_cast(graph: OnnxGraph, op: TfliteOperator) -> None:
    """CAST between float32, int32, int64 and bool."""
    layout = common_layout(graph, op)
    wanted = _CASTS.get(int(op.options["OutDataType"]))
    if wanted is None:
        raise SourceError(f"{graph.model.file_name}: {op.sentence()}, casts to another type")
    graph.put(op.outputs[0], layout, "Cast", [graph.value(op.inputs[0], layout)], to=wanted)


def _axis(axis: int, rank: int, layout: str) -> int:
    """An axis of the file's layout as one of ``layout``, counted from the front."""
    if not -rank <= axis < rank:
        raise ValueError(f"axis {axis} of rank {rank}")
    return TO_NCHW.index(axis % rank) if layout == NCHW else axis % rank
