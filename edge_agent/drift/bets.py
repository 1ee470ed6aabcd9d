"""The detector's table of bets: what each bin of each feature multiplies each bet's stake by.

A bet is a bounded positive weight per bin, larger where one kind of change would put more mass.
Dividing it by its largest mean over all bin laws that the reference's counts do not rule out
makes a factor whose mean is at most 1 while nothing has changed, whichever of those laws is
true. That is an e-value, and such factors are all that the run-length bound needs.

Source: Shin, Ramdas and Rinaldo, "E-detectors: a nonparametric framework for sequential change
detection", arXiv 2203.03532.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.drift.confidence import binomial_limits
from edge_contract.reference import DriftReference, pool_bins

Array = npt.NDArray[np.float64]

DELTA = 1e-3
"""Chance, over the draw of the reference, that the box does not hold the true masses."""

_FLOOR = 0.05
"""What a bet on one bin keeps elsewhere: it never loses more than a factor of about 20."""

_TILTS = (1.0, 3.0, 6.0)
"""Strengths of the bets on a shift up or down; the mean rank moves by .08, .22 and .33."""

_SPREADS = (2.0, 5.0)
"""Strengths of the bets on mass moving to both ends, or to the middle."""

_TAILS = (0.1, 0.01)
"""Mid-ranks below which, and above one minus which, bins are bet on as a tail."""

_LEAST_SHARE = 0.05
_TAIL_SHARE = 0.01
"""Bins are pooled into cells of at least 5 % of the reference, and into one tail of at most 1 % at
either end: the box is tight around cells that hold something."""

_CLASS_BETS = ((1.0, 0.45), (1.0, _FLOOR), (0.1, 1.0))
"""(weight of one class, weight of the rest): twice as common, stuck on it, gone."""


class BetTable(msgspec.Struct, frozen=True):
    """M bets over the bins of F + 1 features.

    Attributes:
        factors: float64 ``[M, K]``, K being the most bins any feature has, its NaN bin included;
            the factor of bet m when its feature falls into bin k. Unused cells are 0.
        feature: int64 ``[M]``, which feature each bet watches.
        share: float64 ``[M]``, the stake of each bet; sums to 1, equal for every feature.
    """

    factors: Array
    feature: npt.NDArray[np.int64]
    share: Array


def build_bets(reference: DriftReference, *, delta: float = DELTA) -> BetTable:
    """The bets against a reference, normalised over its confidence box.

    The box has Clopper-Pearson limits for every cell of every feature, so that with probability
    ``1 - delta`` it holds the true masses of all of them at once. Cells are pooled by the very
    counts that the limits come from, so the Bonferroni correction counts every run of
    neighbouring bins that could have become a cell, not only those that did.
    """
    cells = [_cells(reference, index) for index in range(len(reference.names))]
    rows = [
        np.bincount(cell, (*counts, nan)[: len(cell)]).astype(np.int64)
        for cell, counts, nan in zip(cells, reference.counts, reference.nan_counts, strict=True)
    ]
    limits = 2 * possible_cells(reference)
    lower, upper = binomial_limits(np.concatenate(rows), reference.n, delta / limits)
    widest = max(len(cell) for cell in cells)
    factors: list[Array] = []
    feature: list[int] = []
    share: list[float] = []
    start = 0
    for index, (cell, row) in enumerate(zip(cells, rows, strict=True)):
        box = slice(start, start + len(row))
        start += len(row)
        is_class = index == len(rows) - 1
        bets = _class_bets(len(row)) if is_class else _ordered_bets(row / reference.n)
        for weights in bets:
            factor = np.zeros(widest)
            per_cell = weights / worst_case_mean(weights, lower[box], upper[box])
            factor[: len(cell)] = per_cell[cell]
            factors.append(factor)
            feature.append(index)
            share.append(1 / (len(rows) * len(bets)))
    return BetTable(np.array(factors), np.array(feature, np.int64), np.array(share))


def possible_cells(reference: DriftReference) -> int:
    """Cells that pooling could have made of all features: runs of bins, NaN, and classes."""
    *ordered, classes = reference.bins
    return sum(size * (size + 1) // 2 + 1 for size in ordered) + classes


def _cells(reference: DriftReference, index: int) -> npt.NDArray[np.int64]:
    """The cell of each bin of a feature, NaN last and apart; classes are neither pooled nor NaN."""
    counts = reference.counts[index]
    if index == len(reference.features):
        return np.arange(len(counts))
    pooled = pool_bins(counts, least=_LEAST_SHARE, tail=_TAIL_SHARE)
    return np.array([*pooled, pooled[-1] + 1], np.int64)


def worst_case_mean(weights: Array, lower: Array, upper: Array) -> float:
    """The largest mean of ``weights`` over all laws q with ``lower <= q <= upper``, sum(q) = 1.

    Every bin gets its lower limit, then the heaviest bins are filled up to their upper limits
    until the mass is used up: the optimum of this linear program. All float64 ``[K]``.
    """
    order = np.argsort(-weights)
    room = (upper - lower)[order]
    before = np.cumsum(room) - room
    added = np.clip(1 - lower.sum() - before, 0, room)
    return float(weights @ lower + weights[order] @ added)


def _ordered_bets(mass: Array) -> list[Array]:
    """Bets on one numeric feature whose cells have the masses ``[K + 1]``, the last being NaN.

    They are functions of the mid-rank u of a cell, so they fit any masses: deciles, a value that
    repeats, or old edges under new data. NaN has no rank: it is worth a bet's mean, so nothing
    is won or lost by it, except in the one bet that is on NaN.
    """
    values = mass[:-1]
    total = float(values.sum()) or 1.0
    u = (np.cumsum(values) - values / 2) / total
    shapes: list[Array] = []
    for strength in _TILTS:
        shapes += [np.exp(strength * (u - 1)), np.exp(-strength * u)]
    away = np.abs(2 * u - 1)
    for strength in _SPREADS:
        shapes += [np.exp(strength * (away - 1)), np.exp(-strength * away)]
    for tail in _TAILS:
        shapes += [np.where(end, 1.0, _FLOOR) for end in (u > 1 - tail, u < tail) if end.any()]
    bets = [np.append(shape, shape @ values / total) for shape in shapes]
    on_nan = np.full(len(mass), _FLOOR)
    on_nan[-1] = 1.0
    return [*bets, on_nan]


def _class_bets(size: int) -> list[Array]:
    """Bets on each of ``size`` class bins becoming more or less common."""
    bets = []
    for index in range(size):
        for own, rest in _CLASS_BETS:
            weights = np.full(size, rest)
            weights[index] = own
            bets.append(weights)
    return bets
