"""Look for the plan whose answers are nearest to the float model's.

Candidates are ranges (extremes, percentiles, least squared error, and a search tensor by tensor),
channel equalisation, bias correction and adaptive rounding. They are compared in simulation on
calibration samples; the best few then run on the real int8 kernels over the selection samples, and
that decides. The test data have no part in it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.calibrate.ranges import TensorStats
from compiler.graph.feeds import given_to
from compiler.graph.layers import with_outputs
from compiler.plan.correct import corrected_biases
from compiler.plan.draft import Range, draft_plan, grids_of
from compiler.plan.effort import Effort
from compiler.plan.equalise import (
    Pair,
    Ranges,
    channel_extremes,
    disparity,
    equalise,
    equalise_as,
    find_pairs,
    ranges_of,
    with_values,
)
from compiler.plan.fidelity import Tails, tails_of
from compiler.plan.intervals import candidate_ranges
from compiler.plan.plan import Activations, Plan, Weight, span_of
from compiler.plan.previous import Previous
from compiler.plan.rounding import round_weights, rounding_macs
from compiler.plan.simulate import Simulation, open_session, run_batches
from compiler.plan.structure import ends_of, survey
from compiler.progress import Progress

Array = npt.NDArray[np.float32]


Collect = Callable[[ModelProto, Collection[str]], Mapping[str, TensorStats]]
"""Statistics of the named tensors of a model over all calibration samples."""


@dataclass(frozen=True)
class Budget:
    """What an effort may spend.

    samples: calibration samples in the simulation.
    macs: multiply-accumulates of the search tensor by tensor; it takes fewer samples, down to
        ``SAMPLES_MIN``, and where these are too many does without.
    balances: equalisations to try; fast ones only where channels differ greatly.
    passes: how often the search goes over all tensors.
    finalists: plans that run on the real kernels, beside the best of each equalisation.
    """

    samples: int
    macs: float
    balances: tuple[float, ...]
    passes: int
    finalists: int


BUDGETS: dict[Effort, Budget] = {
    "fast": Budget(samples=48, macs=0, balances=(0.5,), passes=0, finalists=2),
    "normal": Budget(samples=64, macs=1.5e11, balances=(0.0, 0.5), passes=1, finalists=4),
    "thorough": Budget(samples=128, macs=1e12, balances=(0.0, 0.5, 0.8), passes=2, finalists=6),
}
SAMPLES_MAX = 192
"""Calibration samples that the search is given; the extremes of channels want them all."""

SAMPLES_MIN = 16
DISPARITY_MIN = 16.0
"""Channels that differ by less are left as they are at effort ``fast``."""

FACTORS = (0.95, 0.9, 0.8, 0.7, 0.6)
"""What the search multiplies an end of a range by."""

SAME_DB = 60
"""Equalised graphs must be as near as this to the float model: one in which a Reshape means more
than it seems to would not be."""

GAIN_MIN = 0.01
"""dB that a step of the search has to gain, so that noise does not drive it."""


@dataclass(frozen=True)
class Trial:
    """One candidate in simulation.

    recipe: how it was made, in words of the report.
    keeps: it began with the numbers that devices hold, and kept those that it could.
    snr_db: of the logits, on calibration samples.
    floating: the plan's graph before biases were corrected.
    """

    recipe: str
    snr_db: float
    plan: Plan
    floating: ModelProto
    ranges: Mapping[str, Range]
    keeps: bool = False


@dataclass(frozen=True)
class Search:
    """What to search, and with what.

    model: ``FloatGraph.prepared``.
    collect: asks for statistics.
    x: some calibration samples as model inputs, float32 ``[n, ...]``.
    batch: samples a simulated run.
    macs: multiply-accumulates for one sample.
    whole_ends: give the tensors that no int8 operator reads the whole range that was seen: for
        formats that hand out int8 results, where a narrower one would cut the largest scores.
    previous: what devices hold, for a plan that changes as little of it as it can.
    """

    model: ModelProto
    collect: Collect
    x: Array
    batch: int
    macs: int
    activations: Activations
    effort: Effort
    whole_ends: bool = False
    previous: Previous | None = None

    def trials(self, progress: Progress) -> list[Trial]:
        """Finalists, the best in simulation first.

        Raises:
            CompileError: the runtime fails.
        """
        budget = BUDGETS[self.effort]
        x = self.x[: budget.samples]
        tails = tails_of(self.model)
        reference = self._float(self.model, tails.tensors, x)
        best: list[tuple[Trial, _Bench]] = []
        found: list[Trial] = []
        for name, model in self._models(x, reference, tails, budget):
            bench = _Bench(self, model, x, reference, tails)
            tried = bench.bases(name)
            found += tried[:2]
            best.append((tried[0], bench))
        best.sort(key=lambda pair: -pair[0].snr_db)
        if budget.passes:
            trial, bench = best[0]
            progress(f"searching ranges from {trial.recipe} ({trial.snr_db:.1f} dB)")
            searched = bench.descend(trial, budget)
            if searched is not None and searched.snr_db > trial.snr_db:
                found.append(searched)
                trial = searched
            progress(f"correcting biases of {trial.recipe} ({trial.snr_db:.1f} dB)")
            corrected = bench.correct(trial)
            progress(f"rounding weights of {trial.recipe} ({trial.snr_db:.1f} dB)")
            # Only where it helps.
            for changed in (corrected, bench.round(trial, budget)):
                if changed is not None and changed.snr_db > trial.snr_db + GAIN_MIN:
                    found.append(changed)
        found.sort(key=lambda trial: -trial.snr_db)
        # What was fitted to these samples looks best on them. The best of each start runs, too.
        starts = [trial for trial, _ in best]
        chosen = [*found[: budget.finalists], *starts, *self._keeping(x, reference, tails)]
        return list({id(trial): trial for trial in chosen}.values())

    def _keeping(self, x: Array, reference: Sequence[Array], tails: Tails) -> list[Trial]:
        """The plan that keeps what devices hold, and the same with adaptive rounding."""
        previous, budget = self.previous, BUDGETS[self.effort]
        if previous is None:
            return []
        pairs = find_pairs(self.model, survey(self.model))
        model = equalise_as(self.model, pairs, previous.weights)
        if tails.snr_db(reference, self._float(model, tails.tensors, x)) <= SAME_DB:
            model = self.model
        bench = _Bench(self, model, x, reference, tails)
        trial = bench.as_before(previous)
        rounded = bench.round(trial, budget, previous) if budget.passes else None
        return [trial] if rounded is None else [trial, rounded]

    def _models(
        self, x: Array, reference: Sequence[Array], tails: Tails, budget: Budget
    ) -> list[tuple[str, ModelProto]]:
        """The model, and the same function with its channels equalised."""
        found = [("", self.model)]
        pairs = find_pairs(self.model, survey(self.model))
        if not pairs:
            return found
        # Extremes want many samples: a channel that is stretched to a range has no room beyond it.
        seen = x if self.effort == "fast" else self.x
        ranges = self._channels(pairs, seen)
        great = max(disparity(pairs[place], values) for place, values in ranges.items())
        if self.effort == "fast" and great < DISPARITY_MIN:
            return found
        for balance in budget.balances:
            other = equalise(self.model, ranges, pairs, balance)
            same = self._float(other, tails.tensors, x)
            if tails.snr_db(reference, same) > SAME_DB:
                found.append((f"equalised-{balance:g}", other))
        return found

    def _channels(self, pairs: list[Pair], x: Array) -> dict[int, Ranges]:
        """Ranges of every pair's channels; memory holds one batch's tensors, not all of them."""
        names = list(dict.fromkeys(pair.made for pair in pairs))
        session = open_session(with_outputs(self.model, names))
        given = given_to(self.model.graph)
        found: dict[str, tuple[Ranges, Ranges]] = {}
        for start in range(0, len(x), self.batch):
            chunk = x[start : start + self.batch]
            values = run_batches(session, names, given, chunk, self.batch, {})
            for name, made in zip(names, values, strict=True):
                low, high = channel_extremes(iter([made]))
                least, most = found.get(name, (low, high))
                found[name] = np.minimum(least, low), np.maximum(most, high)
        return {place: ranges_of(pair, *found[pair.made]) for place, pair in enumerate(pairs)}

    def _float(self, model: ModelProto, outputs: Sequence[str], x: Array) -> list[Array]:
        session = open_session(with_outputs(model, list(outputs)))
        return run_batches(session, outputs, given_to(model.graph), x, self.batch, {})


class _Bench:
    """One float model, and plans for it under trial."""

    def __init__(
        self,
        search: Search,
        model: ModelProto,
        x: Array,
        reference: Sequence[Array],
        tails: Tails,
    ) -> None:
        self._search = search
        self._model = model
        self._x = x
        self._reference = reference
        self._tails = tails
        self._structure = survey(model)
        self._stats = search.collect(model, set(self._structure.shared.values()))
        self._ends: dict[str, Range] = {}
        if search.whole_ends:
            for head in ends_of(self._structure):
                self._ends[head] = (self._stats[head].low, self._stats[head].high)

    def bases(self, name: str) -> list[Trial]:
        """Every recipe that needs no search, the best first."""
        recipes = candidate_ranges(self._stats, self._structure, self._search.activations)
        simulation: Simulation | None = None
        found = []
        for recipe, drawn in recipes.items():
            ranges = {**drawn, **self._ends}
            plan = self._draft(ranges)
            simulation = simulation or self._simulate(plan)
            snr = self._snr(simulation, ranges, len(self._x))
            found.append(
                Trial("+".join(filter(None, (recipe, name))), snr, plan, self._model, ranges)
            )
        return sorted(found, key=lambda trial: -trial.snr_db)

    def descend(self, trial: Trial, budget: Budget) -> Trial | None:
        """Ranges found tensor by tensor from two starts; ``None`` where the budget forbids it."""
        heads = list(dict.fromkeys(self._structure.shared.values()))
        free = [head for head in heads if head not in self._ends]
        ends = [(head, side) for head in free for side in self._sides(head)]
        runs = 2 * len(ends) * len(FACTORS) * budget.passes
        samples = int(min(len(self._x), budget.macs / max(runs * self._search.macs, 1)))
        if samples < min(SAMPLES_MIN, len(self._x)):
            return None
        simulation = self._simulate(trial.plan)
        widest = {head: (self._stats[head].low, self._stats[head].high) for head in heads}
        starts = [dict(trial.ranges)] + ([widest] if widest != dict(trial.ranges) else [])
        found = []
        for start in starts:
            ranges: dict[str, Range] = dict(start)
            best = self._snr(simulation, ranges, samples)
            for _ in range(budget.passes):
                before = best
                for head, side in ends:
                    low, high = ranges[head]
                    for factor in FACTORS:
                        moved = (
                            low * factor if side != "high" else low,
                            high * factor if side != "low" else high,
                        )
                        tried = {**ranges, head: moved}
                        snr = self._snr(simulation, tried, samples)
                        if snr > best + GAIN_MIN:
                            ranges, best = tried, snr
                if best < before + 0.1:
                    break
            plan = self._draft(ranges)
            snr = self._snr(simulation, ranges, len(self._x))
            found.append(Trial(f"searched+{trial.recipe}", snr, plan, self._model, ranges))
        return max(found, key=lambda one: one.snr_db)

    def correct(self, trial: Trial) -> Trial | None:
        """The trial with corrected biases; ``None`` where no layer has one."""
        biases = corrected_biases(trial.plan, self._structure, self._x, self._search.batch)
        if not biases:
            return None
        return self._drafted(trial, "bias", biases, trial.plan.weights())

    def as_before(self, previous: Previous) -> Trial:
        """The ranges that devices hold, and their weights where these still fit."""
        spans: dict[str, Range] = {}
        for head, stats in self._stats.items():
            grid = previous.grids.get(head)
            before = grid and span_of(grid, self._search.activations)
            spans[head] = before or (stats.low, stats.high)
        draft = draft_plan(
            self._model,
            self._structure,
            spans,
            self._search.activations,
            before=previous,
        )
        snr = self._snr(self._simulate(draft), spans, len(self._x))
        return Trial("as-before", snr, draft, self._model, spans, keeps=True)

    def round(self, trial: Trial, budget: Budget, previous: Previous | None = None) -> Trial | None:
        """The trial with adaptively rounded weights; ``None`` where the budget forbids it."""
        macs = rounding_macs(trial.plan, self._search.macs)
        samples = int(min(len(self._x), budget.macs / max(macs, 1)))
        if samples < min(SAMPLES_MIN, len(self._x)):
            return None
        x = self._x[:samples]
        done = round_weights(trial.plan, self._structure, x, self._search.batch, previous)
        return self._drafted(trial, "rounded", done.biases, done.weights)

    def _drafted(
        self,
        trial: Trial,
        recipe: str,
        biases: Mapping[str, Array],
        weights: Mapping[str, Weight],
    ) -> Trial:
        """The trial with other biases and weights."""
        values = {}
        for node, bias in biases.items():
            name = self._structure.sites[node].bias
            assert name is not None
            tensor = next(t for t in self._model.graph.initializer if t.name == name)
            values[name] = bias.reshape(tuple(tensor.dims))
        model = with_values(self._model, values)
        draft = draft_plan(
            model, self._structure, trial.ranges, self._search.activations, rounded=weights
        )
        simulation = self._simulate(draft)
        snr = self._snr(simulation, trial.ranges, len(self._x))
        recipe = f"{trial.recipe}+{recipe}"
        return Trial(recipe, snr, draft, self._model, trial.ranges, trial.keeps)

    def _sides(self, head: str) -> tuple[str, ...]:
        if self._search.activations == "symmetric":
            return ("both",)
        if self._stats[head].low >= 0 or self._structure.limits.get(head, (-1.0,))[0] == 0:
            return ("high",)
        return ("low", "high")

    def _draft(self, ranges: Mapping[str, Range]) -> Plan:
        return draft_plan(self._model, self._structure, ranges, self._search.activations)

    def _simulate(self, plan: Plan) -> Simulation:
        return Simulation(plan, self._tails.tensors, self._search.batch)

    def _snr(self, simulation: Simulation, ranges: Mapping[str, Range], samples: int) -> float:
        grids = grids_of(self._structure, ranges, self._search.activations)
        found = simulation.run(self._x[:samples], grids)
        return self._tails.snr_db([values[:samples] for values in self._reference], found)
