"""Write convolutions, dense layers and pools into a .tflite file, in int8 or in float."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, helper

from compiler.errors import CompileError
from compiler.plan.plan import Grid
from compiler.tflite.file import Quantisation
from compiler.tflite.tensors import PlannedTensors

SAME, VALID = 0, 1
_INT8_MIN = -128

Pair = tuple[int, int]


def attributes_of(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values."""
    return {entry.name: helper.get_attribute_value(entry) for entry in node.attribute}


def emit_conv(tensors: PlannedTensors, node: NodeProto) -> None:
    """Conv: CONV_2D, or DEPTHWISE_CONV_2D where every group has one input channel."""
    int8 = tensors.is_int8(node)
    attributes = attributes_of(node)
    source = node.input[0]
    _expect_image(tensors, node)
    out, inner, height, width = tensors.shape(node.input[1])
    groups = int(attributes.get("group", 1))
    depthwise = inner == 1 and groups > 1
    order, axis = ((1, 2, 3, 0), 3) if depthwise else ((0, 2, 3, 1), 0)
    weights, bias = _weights(tensors, node, order, axis, out)
    dilations = _pair(attributes.get("dilations", (1, 1)))
    strides = _pair(attributes.get("strides", (1, 1)))
    image = tensors.get(source, int8=int8, nhwc=True)
    image, padding = _padded(
        tensors, node, image, (height, width), strides, dilations, int8, pad_value=None
    )
    options: dict[str, Any] = {
        "padding": padding,
        "strideH": strides[0],
        "strideW": strides[1],
        "dilationHFactor": dilations[0],
        "dilationWFactor": dilations[1],
    }
    if depthwise:
        options["depthMultiplier"] = out // groups
    tensors.put(
        node,
        "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
        3 if int8 else 2 if depthwise and dilations != (1, 1) else 1,
        [image, weights, bias],
        int8=int8,
        nhwc=True,
        table="DepthwiseConv2DOptions" if depthwise else "Conv2DOptions",
        **options,
    )


def emit_dense(tensors: PlannedTensors, node: NodeProto) -> None:
    """Gemm, and MatMul by a constant: FULLY_CONNECTED; MatMul of two activations: BATCH_MATMUL."""
    int8 = tensors.is_int8(node)
    attributes = attributes_of(node)
    left, right = node.input[0], node.input[1]
    if tensors.constant(right) is None:
        if node.op_type != "MatMul":
            raise CompileError(f"Gemm {node.name!r} computes its weights, which is not written")
        sides = [tensors.get(side, int8=int8, nhwc=False) for side in (left, right)]
        tensors.put(
            node,
            "BATCH_MATMUL",
            2 if int8 else 1,
            sides,
            int8=int8,
            nhwc=False,
            table="BatchMatMulOptions",
        )
        return
    plain = attributes.get("alpha", 1.0) == 1 and attributes.get("beta", 1.0) == 1
    if len(tensors.shape(right)) != 2 or not plain or attributes.get("transA", 0):
        raise CompileError(
            f"{node.op_type} {node.name!r} has weights of rank {len(tensors.shape(right))}, alpha,"
            " beta or transA, which FULLY_CONNECTED has not"
        )
    order = (0, 1) if attributes.get("transB", 0) else (1, 0)
    out = tensors.shape(right)[order[0]]
    weights, bias = _weights(tensors, node, order, 0, out)
    tensors.put(
        node,
        "FULLY_CONNECTED",
        4 if int8 else 1,
        [tensors.get(left, int8=int8, nhwc=False), weights, bias],
        int8=int8,
        nhwc=False,
        table="FullyConnectedOptions",
        keepNumDims=len(tensors.shape(left)) != 2,
    )


def emit_pool(tensors: PlannedTensors, node: NodeProto) -> None:
    """MaxPool and AveragePool. Their int8 kernels write on the grid of their input."""
    int8 = tensors.is_int8(node)
    attributes = attributes_of(node)
    _expect_image(tensors, node)
    source = node.input[0]
    kernel = _pair(attributes["kernel_shape"])
    strides = _pair(attributes.get("strides", (1, 1)))
    if _pair(attributes.get("dilations", (1, 1))) != (1, 1):
        raise CompileError(f"{node.op_type} {node.name!r} is dilated; TensorFlow Lite has no such")
    average = node.op_type == "AveragePool"
    if (
        average
        and kernel == tensors.shape(source)[2:]
        and tensors.shape(node.output[0])[2:]
        == (
            1,
            1,
        )
    ):
        emit_global_average(tensors, node)
        return
    image = tensors.get(source, int8=int8, nhwc=True)
    pad_value: float | None = None if average else -np.inf
    image, padding = _padded(tensors, node, image, kernel, strides, (1, 1), int8, pad_value)
    tensors.put(
        node,
        "AVERAGE_POOL_2D" if average else "MAX_POOL_2D",
        2 if int8 else 1,
        [image],
        int8=int8,
        nhwc=True,
        grid=tensors.grid(source) if int8 else None,
        table="Pool2DOptions",
        padding=padding,
        strideH=strides[0],
        strideW=strides[1],
        filterHeight=kernel[0],
        filterWidth=kernel[1],
    )


def emit_global_average(tensors: PlannedTensors, node: NodeProto) -> None:
    """GlobalAveragePool: MEAN, which rounds once, onto the grid of its output."""
    int8 = tensors.is_int8(node)
    _expect_image(tensors, node)
    image = tensors.get(node.input[0], int8=int8, nhwc=True)
    tensors.put(
        node,
        "MEAN",
        2 if int8 else 1,
        [image, tensors.integers([1, 2])],
        int8=int8,
        nhwc=True,
        table="ReducerOptions",
        keepDims=True,
    )


def _weights(
    tensors: PlannedTensors, node: NodeProto, order: tuple[int, ...], axis: int, out: int
) -> tuple[int, int]:
    """Weights with axes in ``order`` (channels then on ``axis``) and the bias, zeros if none."""
    layer = tensors.plan.layers.get(node.name)
    name = node.input[1]
    if layer is None or layer.weight is None:
        weights = tensors.floats(_in_order(tensors.known(node, 1), order), name)
        given = len(node.input) > 2 and bool(node.input[2])
        bias = tensors.known(node, 2).reshape(-1) if given else np.zeros(out, np.float32)
        return weights, tensors.floats(np.broadcast_to(bias, (out,)), f"{node.name}_bias")
    values = _in_order(layer.weight.values, order)
    scales = np.asarray(layer.weight.scales, np.float32)
    integers = np.zeros(out, np.int32) if layer.bias is None else layer.bias
    steps = np.float32(tensors.grid(layer.inputs[0]).scale) * scales
    weights = tensors.file.add_tensor(
        name, values.shape, "int8", Quantisation(scales, 0, axis), values.tobytes()
    )
    bias_tensor = tensors.file.add_tensor(
        f"{node.name}_bias", (out,), "int32", Quantisation(steps, 0), integers.tobytes()
    )
    return weights, bias_tensor


def _in_order(values: npt.NDArray[Any], order: tuple[int, ...]) -> npt.NDArray[Any]:
    return np.ascontiguousarray(values.transpose(order))


def _padded(
    tensors: PlannedTensors,
    node: NodeProto,
    image: int,
    kernel: Pair,
    strides: Pair,
    dilations: Pair,
    int8: bool,
    pad_value: float | None,
) -> tuple[int, int]:
    """The image, behind a PAD where the schema's SAME and VALID do not say the node's pads.

    Args:
        pad_value: None for zero, minus infinity for MaxPool.
    """
    source, made = node.input[0], node.output[0]
    before, after, same = [0, 0], [0, 0], [True, True]
    given = _pads_before(tensors, node, kernel, strides, dilations)
    for axis in (0, 1):
        size, steps = tensors.shape(source)[2 + axis], tensors.shape(made)[2 + axis]
        reach = (steps - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
        before[axis] = given[axis]
        # What the kernel never reaches need not be padded; ceil_mode reaches further.
        after[axis] = max(reach - size - given[axis], 0)
        total = max(reach - size, 0)
        same[axis] = steps == -(-size // strides[axis]) and given[axis] == total // 2
    if not any((*before, *after)):
        return image, VALID
    if all(same):
        counted = node.op_type == "AveragePool" and attributes_of(node).get("count_include_pad", 0)
        if not counted:
            return image, SAME
    elif node.op_type == "AveragePool" and not attributes_of(node).get("count_include_pad", 0):
        raise CompileError(
            f"AveragePool {node.name!r} leaves its pads {before + after} out of the average; only"
            " the pads of SAME can be left out in TensorFlow Lite",
            hint="use count_include_pad=1 or global pooling, or choose an onnxruntime target",
        )
    _, channels, height, width = tensors.shape(source)
    sizes = (1, height + before[0] + after[0], width + before[1] + after[1], channels)
    grid: Grid | None = tensors.grid(source) if int8 else None
    padded = tensors.add_like(source, int8=int8, nhwc=True, grid=grid, shape=sizes)
    pairs = [[0, 0], [before[0], after[0]], [before[1], after[1]], [0, 0]]
    amounts = tensors.integers(np.array(pairs))
    if pad_value is None:
        tensors.step("PAD", 2 if int8 else 1, [image, amounts], padded, "PadOptions")
    elif int8:
        least = tensors.file.add_tensor(
            "least", (1,), "int8", _grid_of(grid), np.array([_INT8_MIN], np.int8).tobytes()
        )
        tensors.step("PADV2", 2, [image, amounts, least], padded, "PadV2Options")
    else:
        lowest = tensors.floats(np.array([np.finfo(np.float32).min]))
        tensors.step("PADV2", 1, [image, amounts, lowest], padded, "PadV2Options")
    return padded, VALID


def _grid_of(grid: Grid | None) -> Quantisation | None:
    if grid is None:
        return None
    return Quantisation(np.array([grid.scale], np.float32), grid.zero_point)


def _pads_before(
    tensors: PlannedTensors, node: NodeProto, kernel: Pair, strides: Pair, dilations: Pair
) -> Pair:
    """Pads at the top and on the left."""
    attributes = attributes_of(node)
    auto = attributes.get("auto_pad", b"NOTSET")
    if auto in (b"SAME_UPPER", b"SAME_LOWER"):
        found = []
        for axis in (0, 1):
            size, steps = (
                tensors.shape(name)[2 + axis] for name in (node.input[0], node.output[0])
            )
            reach = (steps - 1) * strides[axis] + (kernel[axis] - 1) * dilations[axis] + 1
            total = max(reach - size, 0)
            found.append(total // 2 if auto == b"SAME_UPPER" else total - total // 2)
        return found[0], found[1]
    if auto == b"VALID":
        return 0, 0
    pads = attributes.get("pads", (0, 0, 0, 0))
    return int(pads[0]), int(pads[1])


def _pair(values: Any) -> Pair:
    return int(values[0]), int(values[1])


def _expect_image(tensors: PlannedTensors, node: NodeProto) -> None:
    shape = tensors.shape(node.input[0])
    if len(shape) != 4:
        raise CompileError(
            f"{node.op_type} {node.name!r} works on shape {list(shape)}; TensorFlow Lite files are"
            " written for two-dimensional images (rank 4)",
            hint="choose an onnxruntime target, or give the model a height of 1",
        )
