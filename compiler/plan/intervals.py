"""Candidate ranges for activations, from what calibration counted."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from compiler.calibrate.ranges import TensorStats
from compiler.plan.draft import Range
from compiler.plan.plan import QMAX, QMIN, Activations, grid_of
from compiler.plan.structure import Structure

SHARES = {
    "minmax": 1.0,
    "percentile-99.999": 0.99999,
    "percentile-99.995": 0.99995,
    "percentile-99.99": 0.9999,
    "percentile-99.9": 0.999,
}
"""Recipe -> the share of values that each end of a range keeps."""

MSE = "mse"
_FACTORS = np.linspace(1.0, 0.3, 29)


def candidate_ranges(
    stats: Mapping[str, TensorStats], structure: Structure, activations: Activations
) -> dict[str, dict[str, Range]]:
    """Recipe -> tensor -> (low, high), for every tensor with a grid of its own."""
    heads = dict.fromkeys(structure.shared.values())
    found = {
        recipe: {name: stats[name].central(share) for name in heads}
        for recipe, share in SHARES.items()
    }
    found[MSE] = {
        name: mse_range(stats[name], activations, structure.limits.get(name)) for name in heads
    }
    return found


def mse_range(stats: TensorStats, activations: Activations, limit: Range | None = None) -> Range:
    """The range whose grid represents the counted values with the least squared error.

    Each end is drawn in by itself, the other at its best so far, in steps of 2.5 % of the
    extremes; bins count with their centres.
    """
    low, high = stats.low, stats.high
    if limit is not None:
        low, high = max(low, limit[0]), min(high, limit[1])
    if high <= low:
        return stats.low, stats.high
    edges = np.linspace(stats.low, stats.high, len(stats.counts) + 1)
    values = np.clip((edges[:-1] + edges[1:]) / 2, low, high)
    counts = stats.counts.astype(np.float64)

    def error(least: float, most: float) -> float:
        grid = grid_of(min(least, 0.0), max(most, 0.0), activations)
        whole = np.clip(np.round(values / grid.scale) + grid.zero_point, QMIN, QMAX)
        off = (whole - grid.zero_point) * grid.scale - values
        return float(counts @ (off * off))

    best = (low, high)
    if activations == "symmetric":
        return min(((low * f, high * f) for f in _FACTORS), key=lambda r: error(*r))
    for _ in range(2):
        if high > 0:
            best = min(((best[0], high * f) for f in _FACTORS), key=lambda r: error(*r))
        if low < 0:
            best = min(((low * f, best[1]) for f in _FACTORS), key=lambda r: error(*r))
    return best
