"""From ranges to a plan: the grids, the rounded weights, the biases."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.plan.plan import Activations, Grid, LayerPlan, Plan, Weight, grid_of
from compiler.plan.previous import Previous, keep_bias, keep_scales
from compiler.plan.structure import Site, Structure, initializer

Range = tuple[float, float]

_BIAS_MAX = 2.0**30
"""An int32 bias is kept below half the int32 range: the accumulator adds the products to it."""


def draft_plan(
    model: ModelProto,
    structure: Structure,
    ranges: Mapping[str, Range],
    activations: Activations,
    *,
    left_float: frozenset[str] = frozenset(),
    rounded: Mapping[str, Weight] | None = None,
    before: Previous | None = None,
) -> Plan:
    """The plan in which every site of ``structure`` runs in int8.

    Args:
        model: the float graph.
        structure: ``survey(model, left_float)``.
        ranges: tensor -> (low, high), for every tensor that has a grid of its own.
        activations: where zero points may lie.
        left_float: names of layers that stay float, for the record.
        rounded: weights that adaptive rounding chose, by node; others go to the nearest.
        before: what devices hold, which stays where it may.
    """
    grids = grids_of(structure, ranges, activations)
    symmetric = activations == "symmetric"
    layers = {
        site.node: _layer(
            model,
            site,
            grids,
            symmetric,
            (rounded or {}).get(site.node),
            before,
        )
        for site in structure.sites.values()
    }
    return Plan(
        model=model,
        activations=activations,
        grids=grids,
        layers=layers,
        passing=frozenset(structure.passing) | (structure.cuts if symmetric else frozenset()),
        absorbed=frozenset() if symmetric else structure.cuts,
        left_float=left_float,
    )


def grids_of(
    structure: Structure, ranges: Mapping[str, Range], activations: Activations
) -> dict[str, Grid]:
    """The grid of every tensor that needs one."""
    grids: dict[str, Grid] = {}
    for name in structure.gridded:
        head = structure.shared[name]
        grids[name] = grid_of(*_cut(ranges[head], structure.limits.get(head)), activations)
    if activations == "symmetric":
        # A Relu stands where zero points are 0; int8 on both of its sides keeps the layer
        # before it in int8, and with one grid it costs no precision.
        grids |= {made: grids[after] for made, after in structure.behind.items() if after in grids}
    return grids


def weight_scales(
    values: npt.NDArray[np.float32],
    axis: int,
    bias: npt.NDArray[np.float32] | None,
    input_scale: float,
) -> npt.NDArray[np.float32]:
    """Scales float32 ``[out]``: the largest weight of a channel becomes 127.

    Where a channel's weights are so small that its bias would not fit into int32, the bias sets
    the scale.
    """
    rest = tuple(a for a in range(values.ndim) if a != axis)
    scales = np.abs(values.astype(np.float64)).max(axis=rest) / 127
    if bias is not None:
        scales = np.maximum(scales, np.abs(bias.astype(np.float64)) / (_BIAS_MAX * input_scale))
    scales[scales < 1e-30] = 1.0
    return np.asarray(scales, np.float32)


def _layer(
    model: ModelProto,
    site: Site,
    grids: Mapping[str, Grid],
    symmetric: bool,
    weight: Weight | None,
    before: Previous | None,
) -> LayerPlan:
    output = site.made if symmetric and site.made in grids else site.output
    absorbed = () if symmetric else site.cut
    if site.weight is None:
        return LayerPlan(site.node, site.op, site.inputs, output, None, absorbed=absorbed)
    values = initializer(model, site.weight)
    bias = None if site.bias is None else initializer(model, site.bias).reshape(-1)
    input_scale = grids[site.inputs[0]].scale
    if weight is None:
        scales = weight_scales(values, site.axis, bias, input_scale)
        scales, _ = keep_scales(values, scales, before.weights.get(site.node) if before else None)
        shape = [1] * values.ndim
        shape[site.axis] = -1
        nearest = np.round(values.astype(np.float64) / scales.reshape(shape))
        weight = Weight(np.clip(nearest, -127, 127).astype(np.int8), scales, site.axis)
    whole = None
    if bias is not None and before is not None:
        step = grids[output].scale if output in grids else None
        bias = keep_bias(bias, before.biases.get(site.node), step)
    if bias is not None:
        unit = np.float32(input_scale) * weight.scales
        whole = np.round(bias.astype(np.float64) / unit.astype(np.float64)).astype(np.int32)
    return LayerPlan(
        site.node,
        site.op,
        site.inputs,
        output,
        weight,
        bias=whole,
        bias_float=bias,
        absorbed=absorbed,
    )


def _cut(found: Range, limit: Range | None) -> Range:
    """A range inside what the Relu or Clip before it lets through."""
    if limit is None:
        return found
    return max(found[0], limit[0]), max(min(found[1], limit[1]), 0.0)
