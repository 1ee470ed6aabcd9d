"""Regression: by how many per cent does int8 raise the mean absolute error?

Both models answer the same samples, so errors are paired: ``e_float`` and ``e_int8``, the mean
absolute error of a sample's numbers. The gate asks whether the ratio of their means is at most
``1 + max_increase / 100``, by a one-sided 95 % bound (Fieller's; see ``compiler.metrics.bounds``).
"""

from __future__ import annotations

import numpy as np

from compiler.datasets.dataset import Labels
from compiler.metrics.bounds import Bound, Values, ratio_bound
from compiler.metrics.measured import Figure, Measured, evidence_of, figure
from compiler.metrics.verdict import Words, judge_bound
from compiler.proof.gate import Gate
from edge_runtime.preprocess import FloatArray


def measure_errors(
    floating: FloatArray, int8: FloatArray, y: Labels, *, max_increase_percent: float
) -> Measured:
    """Compare predictions ``[n, values]`` against the truth ``[n, ...]`` of as many values.

    Args:
        floating, int8: the two models' predictions.
        y: the truth.
        max_increase_percent: the accepted increase of the mean absolute error.
    """
    truth = y.astype(np.float64).reshape(len(y), -1)
    first, second = (np.abs(rows.astype(np.float64) - truth) for rows in (floating, int8))
    e_float, e_int8 = first.mean(axis=1), second.mean(axis=1)
    gate, increase = judge_errors(e_float, e_int8, max_increase_percent)
    rmse = [float(np.sqrt(np.square(errors).mean())) for errors in (first, second)]
    evidence = evidence_of(
        "error",
        gate,
        max_error_increase_percent=max_increase_percent,
        error_increase_percent=_known(increase.seen),
        error_increase_upper_percent=_known(increase.upper),
        error_increase_lower_percent=_known(increase.lower),
        float={"accuracy": None, "mae": figure(e_float.mean()), "rmse": figure(rmse[0])},
        int8={"accuracy": None, "mae": figure(e_int8.mean()), "rmse": figure(rmse[1])},
    )
    return Measured(
        metric="error",
        gate=gate,
        figures=(
            Figure("Mean absolute error", f"{e_int8.mean():.4g}", f"float {e_float.mean():.4g}"),
            Figure("Root mean square", f"{rmse[1]:.4g}", f"float {rmse[0]:.4g}"),
            Figure("Samples", f"{gate.n:,}", "paired"),
        ),
        evidence=evidence,
    )


def judge_errors(e_float: Values, e_int8: Values, limit_percent: float) -> tuple[Gate, Bound]:
    """The verdict on paired errors ``[n]``, and the increase in per cent with its bounds."""
    n = len(e_float)
    ratio = ratio_bound(e_int8, e_float)
    if not np.any(e_float):
        # Nothing can be said in per cent of nothing; only no error at all holds the limit.
        none = 0.0 if not np.any(e_int8) else np.inf
        ratio = Bound(1 + none, 1 + none, 1 + none)
    increase = Bound(*(100 * (value - 1) for value in (ratio.seen, ratio.lower, ratio.upper)))
    words = Words(
        seen=f"the mean absolute error changed by {increase.seen:+.2f} % on {n} samples",
        what="increase of the mean absolute error",
        unit="%",
        value="{:+.2f} %",
        limit="{:+g} %",
        likeness="errors like these about {} test samples would tell",
    )
    return judge_bound(n, increase, limit_percent, words), increase


def _known(value: float) -> float | None:
    return figure(value) if np.isfinite(value) else None
