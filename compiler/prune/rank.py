"""In which order channels go, and at what cost: Optimal Brain Surgeon in its block form.

For a layer with Hessian ``H`` (second moments of its inputs) and weights ``W``, the smallest
rise of the squared output error when the rows ``s`` of ``W`` are forced to zero and all others
may adapt is ``tr(W_s' (inv(H)_ss)^-1 W_s)``; the others then move by
``-inv(H)_:s (inv(H)_ss)^-1 W_s`` and ``inv(H)`` loses the block (Hassibi and Stork, Second order
derivatives for network pruning, 1993; block form: Kurtic et al., arXiv 2203.07259). The cheapest
channel goes first, and all costs are reckoned anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.prune.dense import Array
from compiler.prune.moments import Moments

RIDGE = 1e-3
"""Of each column's own second moment; so small that inputs which repeat others cost nothing."""


@dataclass(frozen=True)
class Problem:
    """One consumer of a group: its moments, its weights now, and its columns of each channel.

    moments: about the means where the layer has a bias, which adapts at no cost.
    matrix: float64 ``[D, O]``.
    columns: channel -> indices into ``D``; may be of different lengths.
    alive: indices into ``D`` that no earlier group has removed.
    """

    moments: Moments
    matrix: Array
    columns: dict[int, npt.NDArray[np.int64]]
    alive: npt.NDArray[np.int64]


@dataclass(frozen=True)
class Ranking:
    """Channels in the order of removal.

    errors: relative squared error of the consumers' outputs after each removal, rising.
    """

    order: tuple[int, ...]
    errors: tuple[float, ...]


def ridge(moments: Moments, share: float = RIDGE) -> Array:
    """What is added to the diagonal ``[D]``; follows the scale of each column."""
    diagonal = np.diagonal(moments.xx, axis1=-2, axis2=-1)
    return share * diagonal + 1e-9 * (float(diagonal.mean()) + 1e-12)


def rank_channels(problems: Sequence[Problem], channels: Sequence[int], remove: int) -> Ranking:
    """Choose ``remove`` of ``channels``, cheapest first; ties go to the earlier channel.

    Args:
        problems: every consumer of the group.
        channels: ids; the order decides ties.
        remove: at most ``len(channels)``.
    """
    surgeons = [_Surgeon(problem, channels) for problem in problems]
    left = np.ones(len(channels), bool)
    total = sum(surgeon.error for surgeon in surgeons)
    order: list[int] = []
    errors: list[float] = []
    for _ in range(remove):
        costs = sum((surgeon.costs(left) for surgeon in surgeons), np.zeros(len(channels)))
        costs[~left] = np.inf
        worst = int(np.argmin(costs))
        total += max(float(costs[worst]), 0.0)
        left[worst] = False
        for surgeon in surgeons:
            surgeon.remove(worst)
        order.append(channels[worst])
        errors.append(total)
    return Ranking(tuple(order), tuple(errors))


class _Surgeon:
    """Inverse Hessian and weights of one consumer while channels go."""

    def __init__(self, problem: Problem, channels: Sequence[int]) -> None:
        moments = problem.moments
        alive = problem.alive
        extra = ridge(moments)[alive]
        hessian = moments.xx[np.ix_(alive, alive)]
        damped = hessian + np.diag(extra)
        self.inverse = np.linalg.inv(damped)
        # Errors relative to what each output holds: outputs and consumers become comparable.
        unit = 1 / np.sqrt(moments.tt + 1e-9 * moments.tt.max() + 1e-30)
        start = problem.matrix[alive] * unit
        wanted = moments.xt[alive] * unit
        self.matrix = self.inverse @ (wanted + extra[:, None] * start)
        self.energy = float((moments.tt * unit * unit).sum()) + 1e-30
        residual = (
            self.energy
            - 2 * float((self.matrix * wanted).sum())
            + float((self.matrix * (hessian @ self.matrix)).sum())
        )
        self.error = max(residual / self.energy, 0.0)
        place = np.full(len(problem.matrix), -1)
        place[alive] = np.arange(len(alive))
        empty = np.zeros(0, np.int64)
        self.blocks = [place[problem.columns.get(channel, empty)] for channel in channels]

    def costs(self, left: npt.NDArray[np.bool_]) -> Array:
        found = np.zeros(len(self.blocks))
        sizes = sorted({len(self.blocks[i]) for i in np.flatnonzero(left)} - {0})
        for size in sizes:
            same = [i for i in np.flatnonzero(left) if len(self.blocks[i]) == size]
            index = np.stack([self.blocks[i] for i in same])
            inner = self.inverse[index[:, :, None], index[:, None, :]]
            rows = self.matrix[index]
            found[same] = (rows * np.linalg.solve(inner, rows)).sum((1, 2)) / self.energy
        return found

    def remove(self, channel: int) -> None:
        block = self.blocks[channel]
        if not len(block):
            return
        side = self.inverse[:, block]
        moved = side @ np.linalg.inv(self.inverse[np.ix_(block, block)])
        self.matrix -= moved @ self.matrix[block]
        self.inverse -= moved @ side.T
        self.inverse[block] = 0
        self.inverse[:, block] = 0
        self.matrix[block] = 0
