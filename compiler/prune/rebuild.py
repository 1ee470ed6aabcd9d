"""Least squares: the weights of a layer that bring it closest to the float model's outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.prune.dense import Array
from compiler.prune.moments import Moments
from compiler.prune.rank import ridge

SHRINK = 1e-2
"""Of each column's own second moment; keeps few samples from being fitted by heart."""

SHRINKS = (3e-3, SHRINK, 3e-2, 1e-1, 3e-1)
"""What is tried where samples are held apart to choose by."""


def rebuild(
    moments: Moments,
    matrix: Array,
    alive: npt.NDArray[np.int64],
    *,
    bias_is_free: bool,
    shrink: float = SHRINK,
) -> tuple[Array, Array, float]:
    """Solve ``rows @ matrix + bias = targets`` with all rows but ``alive`` zero.

    Inputs come from the model as pruned so far and targets from the float model, so what earlier
    removals spoilt is made good here as far as it can be. The ridge pulls towards what gives the
    same outputs as ``matrix``, so inputs that others can replace cost nothing.

    Args:
        moments: of the layer, about the means when its bias is free.
        matrix: float64 ``[D, O]``, the weights before.
        alive: indices into ``D`` that are kept.
        bias_is_free: the layer has a bias, which then is solved for, too.
        shrink: strength of the ridge, a share of each column's second moment.

    Returns:
        The new matrix ``[D, O]``, the new bias ``[O]`` (zero when it is not free), and the
        squared error relative to the targets' energy.
    """
    hessian = moments.xx[np.ix_(alive, alive)]
    right = moments.xt[alive]
    solved = _solve(moments, _centre(moments, matrix, alive), alive, shrink)
    new = np.zeros_like(matrix)
    new[alive] = solved
    energy = float(moments.tt.sum())
    residual = energy - float((solved * (2 * right - hessian @ solved)).sum())
    error = max(residual, 0.0) / (energy + 1e-30)
    if not bias_is_free:
        return new, np.zeros(matrix.shape[1]), error
    return new, (moments.t - moments.x @ new) / moments.n, error


def choose_shrink(moments: Moments, matrix: Array, alive: npt.NDArray[np.int64]) -> float:
    """The ridge that serves samples best which the weights were not fitted to.

    A layer with many rows a column needs little, one with few needs much; ties go to the smaller.
    """
    if moments.folds is None:
        return SHRINK
    fit, held = moments.folds
    centre = _centre(fit, matrix, alive)
    hessian, right = held.xx[np.ix_(alive, alive)], held.xt[alive]

    def loss(shrink: float) -> float:
        solved = _solve(fit, centre, alive, shrink)
        # Outputs count by what they hold, as in the ranking.
        unit = 1 / (held.tt + 1e-9 * held.tt.max() + 1e-30)
        return float((unit * (solved * (hessian @ solved - 2 * right)).sum(0)).sum())

    return min(SHRINKS, key=loss)


def _centre(moments: Moments, matrix: Array, alive: npt.NDArray[np.int64]) -> Array:
    """The same outputs as before the removal, as near as the kept inputs can give them."""
    slight = ridge(moments)[alive]
    same = moments.xx[alive] @ matrix + slight[:, None] * matrix[alive]
    hessian = moments.xx[np.ix_(alive, alive)]
    return np.asarray(np.linalg.solve(hessian + np.diag(slight), same), np.float64)


def _solve(moments: Moments, centre: Array, alive: npt.NDArray[np.int64], shrink: float) -> Array:
    extra = ridge(moments, shrink)[alive]
    hessian = moments.xx[np.ix_(alive, alive)]
    right = moments.xt[alive] + extra[:, None] * centre
    return np.asarray(np.linalg.solve(hessian + np.diag(extra), right), np.float64)
