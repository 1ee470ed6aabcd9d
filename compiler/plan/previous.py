"""The int8 numbers that devices hold already: a new plan keeps those that are good enough still.

A delta costs what changed. After fine-tuning most float weights have moved by less than a step, but
ranges and roundings chosen afresh move the integers all the same. So tensors keep their ranges,
channels their scales where these still fit, and adaptive rounding leaves a weight its integer where
that is close, as it makes the error good with the weights that follow. (Rounding to the nearest
must not: a fine-tuning moves many weights by less than a step, and together they are what it did.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from compiler.plan.plan import Grid, Weight

Floats = npt.NDArray[np.float64]

COARSER_MAX = 1.1
"""A scale stays while it is at most so many times the one that would be chosen afresh."""

CLIPPED_MAX = 0.5
"""Of a step: how far the largest weight of a channel may lie beyond 127 before its scale goes."""

SLACK = 0.25
"""Of a step: how far beyond half of one an integer may be from its weight and stay."""


@dataclass(frozen=True)
class Previous:
    """What an earlier int8 file of the same network holds.

    grids: by tensor. weights: by node. biases: by node, float64 ``[out]``.
    """

    grids: Mapping[str, Grid]
    weights: Mapping[str, Weight]
    biases: Mapping[str, Floats]


BIAS_SLACK = 1 / 16
"""Of a step of the layer's output: how far a bias may be off and stay."""

STAY_GAIN = 0.02
"""Of a channel's integers: a new scale must let so many more stay, for it costs four bytes."""


def read_previous(model: bytes) -> Previous:
    """Grids and weights of an ONNX file that ``emit_onnx`` wrote.

    Raises:
        onnx.DecodeError: no ONNX file (``google.protobuf``'s name for it).
    """
    graph = onnx.load_model_from_string(model).graph
    constants = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    grids: dict[str, Grid] = {}
    weights: dict[str, Weight] = {}
    biases: dict[str, Floats] = {}
    for node in graph.node:
        given = [constants.get(name) for name in node.input]
        (made,) = node.output[:1] or ("",)
        if node.op_type == "QuantizeLinear" and made.endswith("_q"):
            _, scale, zero_point = given
            if scale is not None and zero_point is not None:
                offset = 128 if zero_point.dtype == np.uint8 else 0
                grids[made.removesuffix("_q")] = Grid(float(scale), int(zero_point) - offset)
        elif node.op_type == "DequantizeLinear" and made.endswith("_w"):
            values, scales, _ = given
            if values is not None and scales is not None and values.dtype == np.int8:
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                weights[made.removesuffix("_w")] = Weight(values, scales, axis)
        elif node.op_type == "DequantizeLinear" and made.endswith("_b"):
            values, scales, _ = given
            if values is not None and scales is not None and values.dtype == np.int32:
                biases[made.removesuffix("_b")] = values.astype(np.float64) * scales
        elif len(given) == 3 and given[2] is not None and given[2].dtype == np.float32:
            biases[node.name] = given[2].reshape(-1).astype(np.float64)
    return Previous(grids, weights, biases)


def keep_scales(
    values: npt.NDArray[np.floating], scales: npt.NDArray[np.float32], before: Weight | None
) -> tuple[npt.NDArray[np.float32], Floats | None]:
    """The scales with which most integers may stay, and these integers.

    For each channel the scale of ``before``, the one of ``scales`` and the one that fits the old
    integers best (least squares) are tried: fine-tuning wants the first, equalisation, which
    stretches whole channels, one of the others.

    Args:
        values: the weight.
        scales: float32 ``[out]``, as they would be chosen afresh.
        before: what devices hold.

    Returns:
        scales, and the old integers as float64; ``None`` where nothing can stay.
    """
    if before is None or before.values.shape != values.shape:
        return scales, None
    axis = before.axis
    wide = np.moveaxis(values.astype(np.float64), axis, 0).reshape(len(scales), -1)
    old = np.moveaxis(before.values.astype(np.float64), axis, 0).reshape(len(scales), -1)
    fitted = (wide * old).sum(axis=1) / np.maximum((old * old).sum(axis=1), 1.0)
    finest, coarsest = scales * np.float32(127 / (127 + CLIPPED_MAX)), scales * COARSER_MAX
    chosen, most = scales, np.full(len(scales), -np.inf)
    gain = STAY_GAIN * wide.shape[1]
    for tried in (before.scales, scales, fitted.astype(np.float32)):
        usable = (tried >= finest) & (tried <= coarsest)
        steps = wide / np.where(usable, tried, scales)[:, None]
        stay = (np.abs(steps - old) <= 0.5 + SLACK).sum(axis=1)
        better = usable & (stay > most + gain)
        chosen, most = np.where(better, tried, chosen), np.where(better, stay, most)
    return chosen, before.values.astype(np.float64)


def keep_bias(
    bias: npt.NDArray[np.float32], before: Floats | None, step: float | None
) -> npt.NDArray[np.float32]:
    """Biases, float32 ``[out]``, those of ``before`` where the difference is a trifle.

    Args:
        step: of the grid that the layer writes; ``None`` where it writes floats.
    """
    if before is None or step is None or before.shape != bias.shape:
        return bias
    near = np.abs(bias - before) <= BIAS_SLACK * step
    return np.where(near, before, bias).astype(np.float32)
