"""Prune a float graph: plan, then remove and rebuild group by group, then cut.

While groups are worked on the graph keeps its size: a removed channel is one whose columns are
zero in every consumer. So each step sees the inputs that the pruned model will really give, and
the surgery happens once, at the end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from compiler.calibrate.ranges import Samples
from compiler.errors import CompileError
from compiler.graph.floatgraph import FloatGraph
from compiler.progress import Progress, silent
from compiler.prune.allocate import exact_count, greedy_path, layer_costs, next_count
from compiler.prune.dense import Array, Dense, list_dense
from compiler.prune.grouped import Grouped, list_grouped
from compiler.prune.groups import Group, Grouping, find_groups
from compiler.prune.moments import Moments, collect_moments, run_shapes, run_to
from compiler.prune.rank import Problem, Ranking, rank_channels
from compiler.prune.rebuild import Solution, rebuild, refit
from compiler.prune.remove import cut_channels, own_weights
from compiler.prune.targets import find_target
from edge_contract.errors import ExitCode
from edge_runtime.tensors import join

EASED_ROUNDS = 3
"""Solutions after the first, each with targets eased by the one before."""

TRIED_KEEP = 0.75
"""Share of a group's channels that is kept where its weight to the model is tried."""

Accept = Callable[[FloatGraph], bool]
"""Says whether a pruned graph is still good enough; decided on data that are not the test's."""


@dataclass(frozen=True)
class GroupReport:
    """What became of one group.

    name: the exporter's name of the first layer that makes the channels.
    error: squared error of the consumers' outputs after the rebuild, relative to their energy;
        the worst consumer's. 0 where nothing was removed.
    frozen: why nothing may be removed here; None when it may.
    """

    name: str
    producers: tuple[str, ...]
    consumers: tuple[str, ...]
    channels_before: int
    channels_after: int
    error: float
    frozen: str | None


@dataclass(frozen=True)
class PruneResult:
    """A pruned float graph and what it took.

    macs_before, macs_after: of every Conv, Gemm and MatMul for one frame.
    """

    graph: FloatGraph
    groups: tuple[GroupReport, ...]
    macs_before: int
    macs_after: int

    @property
    def pruned(self) -> bool:
        """Whether anything was removed."""
        return any(group.channels_after < group.channels_before for group in self.groups)


def prune_model(
    graph: FloatGraph,
    samples: Samples,
    *,
    keep: float | None = None,
    amount: float | None = None,
    accept: Accept | None = None,
    step: int = 1,
    pairs_only: bool = False,
    seed: int = 0,
    progress: Progress = silent,
) -> PruneResult:
    """Remove channels and rebuild what consumes them; nothing is retrained.

    Exactly one of ``keep``, ``amount`` and ``accept`` says how much goes.

    Args:
        graph: the float graph; it is not changed.
        samples: calibration; run through several times.
        keep: the share of the channels that each prunable group keeps, above 0, at most 1.
        amount: the share of the MACs that has to go, from 0, below 1; spent greedily by error
            per MAC. Where the steps end earlier, less goes.
        accept: automatic: as much goes as this still accepts (a handful of trials), which may
            be nothing.
        step: kept counts are multiples of this, the target profile's ``channel_step``; groups
            that are smaller stay whole.
        pairs_only: touch only groups of two layers in a row (``Group.is_pair``).
        seed: draws the positions of feature maps that are looked at.

    Raises:
        CompileError: arguments out of range.
        DatasetError: no samples.
        SourceError: the runtime fails on the model.
    """
    _check(keep, amount, accept, step)
    work = _Work(graph, samples, seed, pairs_only, progress)
    if keep is not None:
        counts = {g.name: exact_count(len(g.channels), keep, step) for g in work.groups}
        return work.carry_out(counts)
    path = greedy_path(work.groups, work.rank_all(step), work.costs, work.channels, step)
    if amount is not None:
        budget = (1 - amount) * work.macs_before
        chosen = next((point for point in path if point.macs <= budget), path[-1])
        return work.carry_out(chosen.kept)
    assert accept is not None
    # The error rises along the path, so the last accepted point is found by halving.
    best, low, high = work.carry_out(path[0].kept), 0, len(path) - 1
    while low < high:
        middle = (low + high + 1) // 2
        share = 1 - path[middle].macs / work.macs_before
        progress(f"trying to prune {100 * share:.0f} % of the MACs")
        trial = work.carry_out(path[middle].kept)
        if accept(trial.graph):
            best, low = trial, middle
        else:
            high = middle - 1
    return best


def group_channels(graph: FloatGraph, samples: Samples) -> Grouping:
    """The dependency groups that ``prune_model`` would work on.

    Raises:
        DatasetError: no samples; one is needed to learn the shapes.
    """
    base = own_weights(graph.prepared)
    return find_groups(base.graph, run_shapes(base, samples))


def _check(keep: float | None, amount: float | None, accept: Accept | None, step: int) -> None:
    if sum(option is not None for option in (keep, amount, accept)) != 1:
        raise CompileError(
            "pruning: expected exactly one of keep, amount and accept", exit_code=ExitCode.USAGE
        )
    if keep is not None and not 0 < keep <= 1:
        raise CompileError(
            f"pruning: keep {keep}: expected a share of the channels above 0, at most 1",
            exit_code=ExitCode.USAGE,
        )
    if amount is not None and not 0 <= amount < 1:
        raise CompileError(
            f"pruning: amount {amount}: expected a share of the MACs from 0, below 1",
            exit_code=ExitCode.USAGE,
        )
    if step < 1:
        raise CompileError(
            f"pruning: step {step}: expected a number of channels of at least 1",
            exit_code=ExitCode.USAGE,
        )


class _Work:
    """One model's groups, layers and costs, and the trials made on it."""

    def __init__(
        self,
        graph: FloatGraph,
        samples: Samples,
        seed: int,
        pairs_only: bool,
        progress: Progress,
    ) -> None:
        self.graph = graph
        self.samples = samples
        self.seed = seed
        self.progress = progress
        self.base = own_weights(graph.prepared)
        shapes = run_shapes(self.base, samples)
        self.grouping: Grouping = find_groups(self.base.graph, shapes)
        self.channels = len(self.grouping.channels.parent)
        self.layers = list_dense(self.base.graph)
        self.grouped = list_grouped(self.base.graph)
        self.every: dict[str, Dense] = {**self.layers, **self.grouped}
        self.targets = {n: find_target(self.base.graph, d, shapes) for n, d in self.every.items()}
        self.costs = layer_costs(self.base, self.grouping, shapes)
        self.macs_before = sum(cost.macs for cost in self.costs)
        self.groups = [g for g in self.grouping.prunable if g.is_pair or not pairs_only]
        self.takes = {
            self.base.graph.node[cut.node].name: cut.ids
            for cut in self.grouping.channels.cuts
            if cut.role == "takes"
        }

    def rank_all(self, step: int) -> dict[str, Ranking]:
        """How each group would shrink if it were the only one, and what the model would lose.

        Errors of a group's consumers say which of its channels matter, but not how much its
        consumers matter to the model. So one removal is tried, and all errors are scaled to what
        it did to the scores.
        """
        nothing = np.zeros(self.channels, bool)
        found = {}
        for group in self.groups:
            size = len(group.channels)
            smaller = next_count(size, step)
            if smaller is None:
                found[group.name] = Ranking((), ())
                continue
            self.progress(f"ranking the channels of {group.name}")
            problems = self._problems(self.base, group.consumers, nothing)
            ranking = rank_channels(list(problems.values()), group.channels, size - 1)
            gone = size - min(exact_count(size, TRIED_KEEP, step), smaller)
            removed = nothing.copy()
            removed[list(ranking.order[:gone])] = True
            trial = ModelProto()
            trial.CopyFrom(self.base)
            self._rebuild(trial, self._without(problems, removed))
            scale = self._score_error(trial) / max(ranking.errors[gone - 1], 1e-12)
            found[group.name] = replace(ranking, errors=tuple(e * scale for e in ranking.errors))
        return found

    def _score_error(self, model: ModelProto) -> float:
        """Squared error of the model's scores, relative to their energy about the mean."""
        names = [value.name for value in model.graph.output]
        now, then = run_to(model, names), run_to(self.base, names)
        wrong, rows = 0.0, []
        for sample in self.samples():
            given, wanted = join(now(sample)), join(then(sample))
            wrong += float(np.square(given.astype(np.float64) - wanted).sum())
            rows.append(wanted.ravel().astype(np.float64))
        spread = np.square(np.array(rows) - np.mean(rows, 0)).sum()
        return wrong / (float(spread) + 1e-30)

    def carry_out(self, counts: dict[str, int]) -> PruneResult:
        """Bring each group to its count, in the order of execution, and cut."""
        model = ModelProto()
        model.CopyFrom(self.base)
        removed = np.zeros(self.channels, bool)
        errors: dict[str, float] = {}
        touched: set[str] = set()
        for node in self.base.graph.node:
            starting = [
                group
                for group in self.groups
                if group.first_consumer == node.name and counts[group.name] < len(group.channels)
            ]
            if starting:
                errors.update(self._shrink(model, starting, counts, removed))
                touched |= {self.layers[name].y for g in starting for name in g.consumers}
            elif not touched.isdisjoint(node.input):
                self._repair(model, node, removed)
            else:
                continue
            touched.update(node.output)
        if removed.any():
            model = cut_channels(model, self.grouping, removed)
        else:
            model = self.graph.prepared
        return PruneResult(
            graph=replace(self.graph, model=model, prepared=model) if removed.any() else self.graph,
            groups=tuple(self._report(g, removed, errors) for g in self.grouping.groups),
            macs_before=self.macs_before,
            macs_after=sum(cost.left(removed) for cost in self.costs),
        )

    def _shrink(
        self,
        model: ModelProto,
        groups: Sequence[Group],
        counts: dict[str, int],
        removed: npt.NDArray[np.bool_],
    ) -> dict[str, float]:
        """Remove from each of ``groups`` and rebuild what consumes them; errors by group name."""
        errors = {}
        for group in groups:
            count = counts[group.name]
            self.progress(f"pruning {group.name} to {count} channels")
            problems = self._problems(model, group.consumers, removed)
            gone = len(group.channels) - count
            ranking = rank_channels(list(problems.values()), group.channels, gone)
            removed[list(ranking.order)] = True
            errors[group.name] = self._rebuild(model, self._without(problems, removed))
        return errors

    def _without(
        self, problems: dict[str, Problem], removed: npt.NDArray[np.bool_]
    ) -> dict[str, Problem]:
        return {
            name: replace(problem, alive=self._alive(self.layers[name], removed))
            for name, problem in problems.items()
        }

    def _repair(self, model: ModelProto, node: NodeProto, removed: npt.NDArray[np.bool_]) -> None:
        """Rebuild a layer whose inputs earlier removals have changed."""
        if node.name in self.layers:
            self._rebuild(model, self._problems(model, [node.name], removed))
        elif node.name in self.grouped:
            self._refit(model, self.grouped[node.name])

    def _problems(
        self, model: ModelProto, names: Sequence[str], removed: npt.NDArray[np.bool_]
    ) -> dict[str, Problem]:
        layers = [self.layers[name] for name in names]
        moments = self._moments(model, names)
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        found = {}
        for layer in layers:
            sums = moments[layer.name]
            columns: dict[int, list[int]] = {}
            for place, channel in enumerate(self.takes.get(layer.name, ())):
                first = place * layer.taps
                columns.setdefault(int(channel), []).extend(range(first, first + layer.taps))
            found[layer.name] = Problem(
                moments=sums.centred() if layer.bias else sums,
                matrix=layer.matrix(numpy_helper.to_array(weights[layer.weight])),
                columns={c: np.array(index, np.int64) for c, index in columns.items()},
                alive=self._alive(layer, removed),
            )
        return found

    def _alive(self, layer: Dense, removed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        gone = np.zeros(layer.inputs, bool)
        if layer.name in self.takes:
            gone = removed[self.takes[layer.name]]
        return np.flatnonzero(np.repeat(~gone, layer.taps))

    def _moments(
        self,
        model: ModelProto,
        names: Iterable[str],
        solved: dict[str, tuple[Array, Array]] | None = None,
    ) -> dict[str, Moments]:
        layers = {self.every[name]: self.targets[name] for name in names}
        return collect_moments(model, self.base, layers, self.samples, self.seed, solved)

    def _rebuild(self, model: ModelProto, problems: dict[str, Problem]) -> float:
        def solve(name: str, moments: Moments) -> Solution:
            problem, free = problems[name], self.layers[name].bias is not None
            return rebuild(moments, problem.matrix, problem.alive, bias_is_free=free)

        return self._solve(model, {n: p.moments for n, p in problems.items()}, solve)

    def _refit(self, model: ModelProto, layer: Grouped) -> None:
        """Solve a grouped layer anew, whose inputs earlier removals have changed."""
        sums = self._moments(model, [layer.name])[layer.name]
        weights = {tensor.name: tensor for tensor in model.graph.initializer}
        matrix = layer.matrix(numpy_helper.to_array(weights[layer.weight]))
        free = layer.bias is not None
        self._solve(
            model,
            {layer.name: sums.centred() if free else sums},
            lambda _, moments: refit(moments, matrix, bias_is_free=free),
        )

    def _solve(
        self,
        model: ModelProto,
        given: dict[str, Moments],
        solve: Callable[[str, Moments], Solution],
    ) -> float:
        """Give layers new weights, easing bounded targets in rounds; the worst error."""
        solved: dict[str, tuple[Array, Array]] = {}
        errors: dict[str, float] = {}
        for turn in range(EASED_ROUNDS + 1):
            names = [n for n in given if not turn or self.targets[n].is_bounded]
            sums = self._moments(model, names, solved) if turn and names else {}
            for name in names:
                moments, free = given[name], self.every[name].bias is not None
                if turn:
                    moments = moments.eased(sums[name], bias_is_free=free)
                matrix, bias, errors[name] = solve(name, moments)
                solved[name] = matrix, bias
        tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        for name, (matrix, bias) in solved.items():
            layer = self.every[name]
            changed = {layer.weight: layer.weights(matrix)}
            if layer.bias is not None:
                changed[layer.bias] = bias.reshape(-1).astype(np.float32)
            for key, values in changed.items():
                tensors[key].CopyFrom(numpy_helper.from_array(values, key))
        return max(errors.values())

    def _report(
        self, group: Group, removed: npt.NDArray[np.bool_], errors: dict[str, float]
    ) -> GroupReport:
        def shown(names: Iterable[str]) -> tuple[str, ...]:
            return tuple(self.graph.names.get(name, name) for name in names)

        return GroupReport(
            name=shown([group.name])[0],
            producers=shown(group.producers),
            consumers=shown(group.consumers),
            channels_before=len(group.channels),
            channels_after=int(np.count_nonzero(~removed[list(group.channels)])),
            error=errors.get(group.name, 0.0),
            frozen=group.frozen,
        )
