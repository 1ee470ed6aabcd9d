"""Least squares: the weights of a layer that bring it closest to the float model's outputs."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.prune.dense import Array
from compiler.prune.moments import Moments
from compiler.prune.rank import ridge

SHRINK = 1e-2
"""Of each column's own second moment; keeps few samples from being fitted by heart."""


def rebuild(
    moments: Moments,
    matrix: Array,
    alive: npt.NDArray[np.int64],
    *,
    bias_is_free: bool,
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
    solved = np.linalg.solve(hessian + np.diag(extra), right + extra[:, None] * centre)
    new = np.zeros_like(matrix)
    new[alive] = solved
    energy = float(moments.tt.sum())
    residual = energy - float((solved * (2 * right - hessian @ solved)).sum())
    error = max(residual, 0.0) / (energy + 1e-30)
    if not bias_is_free:
        return new, np.zeros(matrix.shape[1]), error
    return new, (moments.t - moments.x @ new) / moments.n, error
