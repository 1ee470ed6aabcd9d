"""Adaptive rounding: each weight goes up or down so that the layer's outputs stay, not the weight.

Rounding to the nearest is best for a weight alone. A layer's output error is ``e H e'`` for the row
``e`` of an output's weight errors and ``H = X'X`` of its inputs ``X``, so what rounding one weight
spoils, those not yet rounded can make good. With ``H = L D L'`` (``L`` unit lower triangular) the
error is ``sum_k D_k (e_k + sum_{j>k} e_j L_jk)^2``: from the last column to the first, each weight
is rounded after the errors behind it were carried over. That is GPTQ (E. Frantar et al., 2023) in
the form of LDLQ (J. Chee et al., QuIP, 2023, theorem 1): one factorisation and no gradient descent.

Inputs are those of the int8 model, the layers before already rounded; targets are the float
model's. So weights are first moved to the least-squares answer to the float outputs, held back by
a ridge, which makes good some of what came before. A bias takes up what is left in the mean.

The result must not depend on the number of threads. Sums of products are of whole numbers below
2^53, which are exact in any order; all that follows is element by element.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from compiler.graph.feeds import given_to
from compiler.graph.layers import with_outputs
from compiler.plan.draft import weight_scales
from compiler.plan.patches import Floats, Patches, patches_of
from compiler.plan.plan import LayerPlan, Plan, Weight
from compiler.plan.previous import SLACK, Previous, keep_bias, keep_scales
from compiler.plan.simulate import Simulation, open_session, run_batches
from compiler.plan.structure import Structure, initializer

Array = npt.NDArray[np.float32]

ROWS_PER_SAMPLE = 256
"""Positions of a feature map that one sample contributes: neighbours say much the same."""

COLUMNS_MAX = 1152
"""Errors are carried over among so many columns; a wider layer is cut into such parts."""

RIDGE = 0.01
"""Of rounding, in units of each column's own second moment plus the mean of all."""

HOLD = 3.0
"""The same for weights that move to make good what came before. It is this much because the
samples are few: with 0.1 the error halves on those samples and grows on all others."""

_FINER = 256
"""Float inputs are counted in this part of a step of the int8 grid."""

_COUNT_MAX = 2.0**22
"""Of such parts; what lies further out is cut, which keeps sums below 2^53."""


@dataclass(frozen=True)
class Rounded:
    """What adaptive rounding chose, by node.

    weights: for every layer with a constant weight.
    biases: float32 ``[out]`` for those that have one.
    """

    weights: Mapping[str, Weight]
    biases: Mapping[str, Array]


def rounding_macs(plan: Plan, macs: int) -> int:
    """Multiply-accumulates that rounding costs for one sample of a model of ``macs``."""
    return 2 * len(plan.layers) * macs


def round_weights(
    plan: Plan,
    structure: Structure,
    x: Array,
    batch: int,
    before: Previous | None = None,
) -> Rounded:
    """Round every layer of ``plan`` to what keeps its outputs, in the order of execution.

    Args:
        plan: rounded to the nearest; its grids stay.
        structure: that of its model.
        x: model inputs float32 ``[n, ...]``.
        batch: samples a run.
        before: what devices hold, which stays where it may.

    Raises:
        CompileError: the runtime fails.
    """
    weights: dict[str, Weight] = {}
    biases: dict[str, Array] = {}
    current = plan
    for node, layer in plan.layers.items():
        if layer.weight is None:
            continue
        patches = patches_of(plan.model, structure.sites[node])
        moments = _moments(plan, current, layer, patches, x, batch)
        done = _round_layer(plan, layer, patches, moments, before)
        assert done.weight is not None
        weights[node] = done.weight
        if done.bias_float is not None:
            biases[node] = done.bias_float
        current = replace(current, layers={**current.layers, node: done})
    return Rounded(weights, biases)


@dataclass(frozen=True)
class _Moments:
    """Sums over rows of int8 inputs ``q`` and float inputs ``f``, both in steps of the grid.

    qq: ``[groups, columns, columns]``, the Hessian. fq: the same with ``f`` on the left.
    q, f: sums ``[groups, columns]``. n: rows.
    """

    qq: Floats
    fq: Floats
    q: Floats
    f: Floats
    n: int


def _moments(
    plan: Plan, current: Plan, layer: LayerPlan, patches: Patches, x: Array, batch: int
) -> _Moments:
    (tensor,) = layer.inputs
    scale = plan.grids[tensor].scale
    simulation = Simulation(current, [tensor], batch, rounded=True)
    session = open_session(with_outputs(plan.model, [tensor]))
    given = given_to(plan.model.graph)
    shape = (patches.groups, patches.columns, patches.columns)
    qq, fq = np.zeros(shape), np.zeros(shape)
    q, f = np.zeros(shape[:2]), np.zeros(shape[:2])
    n = 0
    for start in range(0, len(x), batch):
        chunk = x[start : start + batch]
        (int8,) = simulation.run(chunk, plan.grids)
        fed = given.split(chunk)
        if tensor in fed:
            floating = fed[tensor]
        else:
            (floating,) = run_batches(session, [tensor], given, chunk, batch, {})
        left = patches.rows(np.round(int8 / np.float32(scale)), ROWS_PER_SAMPLE)
        fine = np.round(floating.astype(np.float64) * (_FINER / scale))
        right = patches.rows(np.clip(fine, -_COUNT_MAX, _COUNT_MAX), ROWS_PER_SAMPLE)
        qq += np.swapaxes(left, 1, 2) @ left
        fq += np.swapaxes(right, 1, 2) @ left
        q += left.sum(axis=1)
        f += right.sum(axis=1)
        n += left.shape[1]
    return _Moments(qq, fq / _FINER, q, f / _FINER, n)


def _round_layer(
    plan: Plan, layer: LayerPlan, patches: Patches, moments: _Moments, before: Previous | None
) -> LayerPlan:
    site = patches.site
    assert site.weight is not None
    assert layer.weight is not None
    values = initializer(plan.model, site.weight)
    matrix = patches.matrix(values)
    hessian, cross = moments.qq, moments.fq
    if layer.bias_float is not None:
        # What the mean of an input does, the bias can do as well.
        hessian = hessian - moments.q[:, :, None] * moments.q[:, None, :] / moments.n
        cross = cross - moments.f[:, :, None] * moments.q[:, None, :] / moments.n
    input_scale = plan.grids[layer.inputs[0]].scale
    target = np.zeros_like(matrix)
    chosen = np.zeros_like(matrix)
    parts = -(-patches.columns // COLUMNS_MAX)
    spans = np.array_split(np.arange(patches.columns), parts)
    blocks = []
    for span in spans:
        block = hessian[:, span[:, None], span[None, :]]
        energy = np.diagonal(block, axis1=1, axis2=2)
        # Columns that calibration never saw keep their weights: the ridge alone weighs them.
        ridge = RIDGE * (energy + energy.mean(axis=1, keepdims=True)) + 1e-9
        order = np.argsort(energy, axis=1, kind="stable")
        factors = _factorise(_ordered(block + _diagonal(ridge), order))
        start = matrix[:, :, span]
        missing = cross[:, span[:, None], span[None, :]] - block
        pull = _multiply(start, missing)
        held = _factorise(_ordered(block + _diagonal(HOLD / RIDGE * ridge), order))
        moved = start + _unordered(_solve(held, _take(pull, order)), order)
        # What is 0 was made so, by 2:4 sparsity say, and would gain nothing were it filled again.
        target[:, :, span] = np.where(start == 0, 0.0, moved)
        blocks.append((span, order, factors[0]))
    wanted = patches.weight(target).astype(np.float32)
    scales = weight_scales(wanted, site.axis, layer.bias_float, input_scale)
    scales, stays = keep_scales(wanted, scales, before.weights.get(site.node) if before else None)
    steps = scales.astype(np.float64).reshape(patches.groups, -1, 1)
    old = None if stays is None else patches.matrix(stays)
    for span, order, lower in blocks:
        kept = _take(matrix[:, :, span], order) != 0
        known = None if old is None else _take(old[:, :, span], order)
        whole = _carry(_take(target[:, :, span] / steps, order), lower, kept, known)
        chosen[:, :, span] = _unordered(whole, order)
    weight = Weight(patches.weight(chosen).astype(np.int8), scales, site.axis)
    if layer.bias_float is None:
        return replace(layer, weight=weight)
    given = (chosen * steps * moments.q[:, None, :]).sum(axis=2)
    due = (matrix * moments.f[:, None, :]).sum(axis=2)
    shift = (due - given).reshape(-1) * (input_scale / moments.n)
    bias = (layer.bias_float.astype(np.float64) + shift).astype(np.float32)
    if before is not None:
        grid = plan.grids.get(layer.output)
        bias = keep_bias(bias, before.biases.get(site.node), grid.scale if grid else None)
    unit = (np.float32(input_scale) * scales).astype(np.float64)
    whole_bias = np.round(np.clip(bias / unit, -(2.0**31) + 1, 2.0**31 - 1)).astype(np.int32)
    return replace(layer, weight=weight, bias=whole_bias, bias_float=bias)


def _factorise(matrix: Floats) -> tuple[Floats, Floats]:
    """``L`` unit lower triangular and ``D`` with ``matrix = L D L'``, for each group."""
    rest = matrix.copy()
    size = rest.shape[1]
    lower = np.zeros_like(rest)
    pivots = np.empty(rest.shape[:2])
    for k in range(size):
        pivot = np.maximum(rest[:, k, k], 1e-12)
        column = rest[:, k:, k] / pivot[:, None]
        column[:, 0] = 1.0
        lower[:, k:, k] = column
        pivots[:, k] = pivot
        tail = column[:, 1:]
        rest[:, k + 1 :, k + 1 :] -= (tail * pivot[:, None])[:, :, None] * tail[:, None, :]
    return lower, pivots


def _solve(factors: tuple[Floats, Floats], right: Floats) -> Floats:
    """``right (L D L')^-1`` for rows ``[groups, outputs, columns]``."""
    lower, pivots = factors
    found: Floats = right.copy()
    size = found.shape[2]
    for k in range(size):
        found[:, :, k + 1 :] -= found[:, :, k, None] * lower[:, None, k + 1 :, k]
    found /= pivots[:, None, :]
    for k in range(size - 1, 0, -1):
        found[:, :, :k] -= found[:, :, k, None] * lower[:, None, k, :k]
    return found


def _carry(
    target: Floats, lower: Floats, kept: npt.NDArray[np.bool_], before: Floats | None
) -> Floats:
    """Whole numbers -127..127 for weights in steps, the last column first; 0 where not ``kept``,
    those of ``before`` where they are close enough."""
    whole = np.zeros_like(target)
    errors = np.zeros_like(target)
    for k in range(target.shape[2] - 1, -1, -1):
        carried = (errors[:, :, k + 1 :] * lower[:, None, k + 1 :, k]).sum(axis=2)
        wanted = target[:, :, k] + carried
        rounded = np.clip(np.round(wanted), -127, 127)
        if before is not None:
            close = np.abs(wanted - before[:, :, k]) <= 0.5 + SLACK
            rounded = np.where(close, before[:, :, k], rounded)
        whole[:, :, k] = np.where(kept[:, :, k], rounded, 0.0)
        errors[:, :, k] = target[:, :, k] - whole[:, :, k]
    return whole


def _multiply(left: Floats, right: Floats) -> Floats:
    """A product summed column by column, in one order on any number of threads."""
    found = np.zeros_like(left)
    for k in range(left.shape[2]):
        found += left[:, :, k, None] * right[:, None, k, :]
    return found


def _diagonal(values: Floats) -> Floats:
    found: Floats = values[:, :, None] * np.eye(values.shape[1])
    return found


def _ordered(matrix: Floats, order: npt.NDArray[np.int64]) -> Floats:
    rows = np.take_along_axis(matrix, order[:, :, None], axis=1)
    return np.take_along_axis(rows, order[:, None, :], axis=2)


def _take(rows: Floats, order: npt.NDArray[np.int64]) -> Floats:
    return np.take_along_axis(rows, np.broadcast_to(order[:, None, :], rows.shape), axis=2)


def _unordered(rows: Floats, order: npt.NDArray[np.int64]) -> Floats:
    return _take(rows, np.argsort(order, axis=1, kind="stable"))
