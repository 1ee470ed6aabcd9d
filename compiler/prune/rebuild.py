"""Least squares: the weights of a layer that bring it closest to the float model's outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.prune.dense import Array
from compiler.prune.moments import Moments
from compiler.prune.rank import ridge

SHRINK = 1e-1
"""Of each column's own second moment; keeps few samples from being fitted by heart. Chosen on
calibration samples that no fit had seen (docs/evidence/prune.md)."""

SHRINK_GROUPED = 1.0
"""The same for grouped layers, chosen in the same way."""

Solution = tuple[Array, Array, float]
"""New matrix, new bias, squared error relative to the targets' energy."""


def rebuild(
    moments: Moments,
    matrix: Array,
    alive: npt.NDArray[np.int64],
    *,
    bias_is_free: bool,
) -> Solution:
    """Solve ``rows @ matrix + bias = targets`` with all rows but ``alive`` zero.

    Inputs come from the model as pruned so far and targets from the float model, so what earlier
    removals spoilt is made good here as far as it can be. The ridge pulls towards what gives the
    same outputs as ``matrix``, so inputs that others can replace cost nothing.

    Args:
        moments: of the layer, about the means when its bias is free.
        matrix: float64 ``[D, O]``, the weights before.
        alive: indices into ``D`` that are kept.
        bias_is_free: the layer has a bias, which then is solved for, too.

    Returns:
        The new matrix ``[D, O]``, the new bias ``[O]`` (zero when it is not free), and the
        squared error relative to the targets' energy.
    """
    extra = ridge(moments, SHRINK)[alive]
    hessian = moments.xx[np.ix_(alive, alive)]
    right = moments.xt[alive]
    start = matrix[alive]
    # The same outputs as before the removal, as near as the kept inputs can give them.
    slight = ridge(moments)[alive]
    same = moments.xx[alive] @ matrix + slight[:, None] * start
    centre = np.linalg.solve(hessian + np.diag(slight), same)
    damped = hessian + np.diag(extra)
    solved = np.asarray(np.linalg.solve(damped, right + extra[:, None] * centre), np.float64)
    new = np.zeros_like(matrix)
    new[alive] = solved
    error = _relative_error(moments, hessian, right, solved)
    return new, _bias(moments, new, bias_is_free), error


def refit(moments: Moments, matrix: Array, *, bias_is_free: bool) -> Solution:
    """Solve ``rows @ matrix + bias = targets`` for each group of a grouped layer.

    No input is missing, so the ridge pulls towards the weights themselves.

    Args:
        moments: of the layer, about the means when its bias is free.
        matrix: float64 ``[G, D, O]``, the weights before.
        bias_is_free: the layer has a bias, which then is solved for, too.

    Returns:
        The new matrix ``[G, D, O]``, the new bias ``[G, O]`` (zero when it is not free), and the
        squared error relative to the targets' energy.
    """
    extra = ridge(moments, SHRINK_GROUPED)[..., None]
    hessian = moments.xx + extra * np.eye(matrix.shape[-2])
    new = np.asarray(np.linalg.solve(hessian, moments.xt + extra * matrix), np.float64)
    error = _relative_error(moments, moments.xx, moments.xt, new)
    return new, _bias(moments, new, bias_is_free), error


def _bias(moments: Moments, matrix: Array, is_free: bool) -> Array:
    if not is_free:
        return np.zeros(moments.t.shape)
    means: Array = (moments.t - (moments.x[..., None, :] @ matrix)[..., 0, :]) / moments.n
    return means


def _relative_error(moments: Moments, hessian: Array, right: Array, solved: Array) -> float:
    energy = float(moments.tt.sum())
    residual = energy - float((solved * (2 * right - hessian @ solved)).sum())
    return max(residual, 0.0) / (energy + 1e-30)
