"""How many channels each group keeps: an exact share, or greedily by error per MAC."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.graph.layers import macs
from compiler.prune.groups import Group, Grouping
from compiler.prune.rank import Ranking


@dataclass(frozen=True)
class LayerCost:
    """MACs of one layer for one frame, and the channels that they are for.

    takes, makes: ids; None where the axis never shrinks.
    """

    macs: int
    takes: npt.NDArray[np.int64] | None
    makes: npt.NDArray[np.int64] | None

    def left(self, removed: npt.NDArray[np.bool_]) -> int:
        """MACs once ``removed`` (bool ``[channels]``) are gone."""
        rest = self.macs
        for ids in (self.takes, self.makes):
            if ids is not None:
                rest = rest * int(np.count_nonzero(~removed[ids])) // len(ids)
        return rest


@dataclass(frozen=True)
class Step:
    """One point on the greedy path: channels kept by each group's name, and the MACs then."""

    kept: dict[str, int]
    macs: int


def layer_costs(
    model: ModelProto, grouping: Grouping, shapes: dict[str, tuple[int, ...]]
) -> list[LayerCost]:
    """Of every Conv, Gemm and MatMul, in the order of execution; ``shapes`` are its tensors'."""
    known = {**shapes, **{t.name: tuple(t.dims) for t in model.graph.initializer}}
    roles: dict[int, dict[str, npt.NDArray[np.int64]]] = {}
    for cut in grouping.channels.cuts:
        if cut.slot == 1:
            roles.setdefault(cut.node, {})[cut.role] = cut.ids
    found = []
    for index, node in enumerate(model.graph.node):
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            ids = roles.get(index, {})
            makes = ids.get("makes", ids.get("carries"))
            found.append(LayerCost(macs(node, known), ids.get("takes"), makes))
    return found


def exact_count(total: int, keep: float, step: int) -> int:
    """How many of ``total`` channels ``keep`` leaves, a multiple of ``step``.

    The share is a budget: in steps a group keeps the largest multiple that is not above the exact
    count (the nearest whole number), so that alignment never leaves more work than was asked for.
    At least one step, though; and a group that is no wider than the step, or of which nothing is
    to go, stays whole.
    """
    exact = max(1, math.ceil(total * keep - 0.5))
    if total <= step or exact == total:
        return total
    return max(exact // step, 1) * step


def next_count(kept: int, step: int) -> int | None:
    """The next smaller multiple of ``step``; None when nothing would be left."""
    smaller = (kept - 1) // step * step
    return smaller or None


def greedy_path(
    groups: Sequence[Group],
    rankings: Mapping[str, Ranking],
    costs: Sequence[LayerCost],
    channels: int,
    step: int,
) -> list[Step]:
    """From the whole model to the smallest, at each point the step of least error per MAC saved.

    Args:
        groups: prunable ones.
        rankings: by group name; as long as the group may shrink.
        costs: of every layer.
        channels: number of channel ids.
        step: counts are multiples of this.

    Returns:
        The path; its first point is the whole model.
    """
    removed = np.zeros(channels, bool)
    kept = {group.name: len(group.channels) for group in groups}
    sizes = dict(kept)
    path = [Step(dict(kept), _total(costs, removed))]
    while True:
        best: tuple[float, str, int, npt.NDArray[np.bool_], int] | None = None
        for group in groups:
            ranking = rankings[group.name]
            count = next_count(kept[group.name], step)
            gone = None if count is None else sizes[group.name] - count
            if count is None or gone is None or gone > len(ranking.order):
                continue
            after = removed.copy()
            after[list(ranking.order[:gone])] = True
            before = sizes[group.name] - kept[group.name]
            rise = ranking.errors[gone - 1] - (ranking.errors[before - 1] if before else 0.0)
            macs = _total(costs, after)
            price = rise / max(path[-1].macs - macs, 1)
            if best is None or price < best[0]:
                best = price, group.name, count, after, macs
        if best is None:
            return path
        _, name, count, removed, macs = best
        kept[name] = count
        path.append(Step(dict(kept), macs))


def _total(costs: Sequence[LayerCost], removed: npt.NDArray[np.bool_]) -> int:
    return sum(cost.left(removed) for cost in costs)
