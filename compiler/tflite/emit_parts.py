"""Write operators that take parts of a tensor, or make it larger, into a .tflite file."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from onnx import NodeProto

from compiler.errors import CompileError
from compiler.tflite.emit_layers import attributes_of
from compiler.tflite.tensors import TO_NHWC, PlannedTensors

_RESIZES: dict[tuple[str, str, str], tuple[str, bool, bool]] = {
    ("linear", "half_pixel", ""): ("RESIZE_BILINEAR", False, True),
    ("linear", "pytorch_half_pixel", ""): ("RESIZE_BILINEAR", False, True),
    ("linear", "align_corners", ""): ("RESIZE_BILINEAR", True, False),
    ("linear", "asymmetric", ""): ("RESIZE_BILINEAR", False, False),
    ("nearest", "asymmetric", "floor"): ("RESIZE_NEAREST_NEIGHBOR", False, False),
    ("nearest", "half_pixel", "round_prefer_ceil"): ("RESIZE_NEAREST_NEIGHBOR", False, True),
}
"""(mode, coordinates, rounding) -> operator, its alignCorners and halfPixelCenters. TensorFlow
Lite's half-pixel nearest takes ``floor((x + 0.5) * scale)``, which is round_prefer_ceil."""

_SAME_AT_WHOLE_FACTORS = {
    ("half_pixel", "round_prefer_floor"),
    ("half_pixel", "round_prefer_ceil"),
    ("asymmetric", "floor"),
}
"""Nearest neighbours that agree where an image grows by a whole factor: no pixel lies between."""


def emit_slice(tensors: PlannedTensors, node: NodeProto) -> None:
    """Slice with constant bounds: SLICE, or STRIDED_SLICE where it skips."""
    shape = tensors.shape(node.input[0])
    rank = len(shape)
    starts = tensors.known(node, 1).reshape(-1).tolist()
    given = [len(node.input) > place and bool(node.input[place]) for place in (3, 4)]
    axes = tensors.known(node, 3).reshape(-1).tolist() if given[0] else list(range(len(starts)))
    steps = tensors.known(node, 4).reshape(-1).tolist() if given[1] else [1] * len(starts)
    if min(steps, default=1) < 1:
        raise CompileError(
            f"Slice {node.name!r} runs backwards, which is not written to .tflite",
            hint="choose an onnxruntime target, or replace it in the model",
        )
    begin, strides = [0] * rank, [1] * rank
    for axis, start, step in zip(axes, starts, steps, strict=True):
        size = shape[axis]
        begin[axis % rank] = max(0, start + size) if start < 0 else min(start, size)
        strides[axis % rank] = step
    made = tensors.shape(node.output[0])
    if max(strides) == 1:
        _cut(tensors, node, node.output[0], begin, made)
        return
    last = [b + (n - 1) * s + 1 for b, n, s in zip(begin, made, strides, strict=True)]
    nhwc = tensors.prefers_nhwc(node.input[0])
    bounds = [tensors.integers(_ordered(values, nhwc)) for values in (begin, last, strides)]
    tensors.put(
        node,
        "STRIDED_SLICE",
        1,
        [tensors.get(node.input[0], int8=False, nhwc=nhwc), *bounds],
        int8=False,
        nhwc=nhwc,
        table="StridedSliceOptions",
    )


def emit_split(tensors: PlannedTensors, node: NodeProto) -> None:
    """Split: a SLICE for each part."""
    rank = len(tensors.shape(node.input[0]))
    axis = int(attributes_of(node).get("axis", 0)) % rank
    begin = [0] * rank
    for name in node.output:
        made = tensors.shape(name)
        _cut(tensors, node, name, begin, made)
        begin[axis] += made[axis]


def emit_resize(tensors: PlannedTensors, node: NodeProto) -> None:
    """Resize of an image's height and width by interpolation or nearest neighbours.

    Raises:
        CompileError: coordinates or rounding that TensorFlow Lite has not.
    """
    attributes = attributes_of(node)
    before, after = tensors.shape(node.input[0]), tensors.shape(node.output[0])
    mode, coordinates, rounding = (
        attributes.get(name, default).decode()
        for name, default in (
            ("mode", b"nearest"),
            ("coordinate_transformation_mode", b"half_pixel"),
            ("nearest_mode", b"round_prefer_floor"),
        )
    )
    whole = len(before) == 4 and all(new % old == 0 for old, new in zip(before, after, strict=True))
    if mode == "nearest" and whole and (coordinates, rounding) in _SAME_AT_WHOLE_FACTORS:
        coordinates, rounding = "asymmetric", "floor"
    if mode != "nearest":
        rounding = ""
    single = coordinates == "pytorch_half_pixel" and 1 in after[2:]
    found = _RESIZES.get((mode, coordinates, rounding))
    if found is None or single or len(before) != 4 or before[:2] != after[:2]:
        raise CompileError(
            f"Resize {node.name!r} ({mode}, {coordinates}{', ' if rounding else ''}{rounding},"
            f" {list(before)} to {list(after)}) is none that TensorFlow Lite has",
            hint="choose an onnxruntime target, or export it as half_pixel or asymmetric",
        )
    kind, align, half = found
    linear = kind == "RESIZE_BILINEAR"
    tensors.put(
        node,
        kind,
        3 if half else 1,
        [
            tensors.get(node.input[0], int8=False, nhwc=True),
            tensors.integers(after[2:]),
        ],
        int8=False,
        nhwc=True,
        table="ResizeBilinearOptions" if linear else "ResizeNearestNeighborOptions",
        alignCorners=align,
        halfPixelCenters=half,
    )


def _cut(
    tensors: PlannedTensors,
    node: NodeProto,
    name: str,
    begin: Sequence[int],
    sizes: Sequence[int],
) -> None:
    """SLICE: the output ``name`` of ``node``, from ``begin``."""
    nhwc = tensors.prefers_nhwc(node.input[0])
    part = NodeProto(op_type=node.op_type, name=node.name, input=node.input[:1], output=[name])
    tensors.put(
        part,
        "SLICE",
        1,
        [
            tensors.get(node.input[0], int8=False, nhwc=nhwc),
            tensors.integers(_ordered(begin, nhwc)),
            tensors.integers(_ordered(sizes, nhwc)),
        ],
        int8=False,
        nhwc=nhwc,
        table="SliceOptions",
    )


def _ordered(values: Sequence[int], nhwc: bool) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    return np.array([values[axis] for axis in TO_NHWC] if nhwc else values, np.int32)
