"""Pruning as a stage of a build: before calibration, judged on the selection data, told in full.

What comes out is another float model. It is quantised in place of the source; the gate then holds
its int8 answers against those of the *source* on the test data, so whatever pruning costs counts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np

from compiler.calibrate.ranges import Samples
from compiler.datasets.dataset import Labels, stream
from compiler.errors import DatasetError
from compiler.graph.floatgraph import FloatGraph
from compiler.graph.layers import Layer, list_layers
from compiler.inputs import Inputs
from compiler.metrics.measure import Limits, measure
from compiler.options import BuildOptions
from compiler.plan.fidelity import logits_from_scores, rows_snr_db, tails_of
from compiler.plan.plan import Plan
from compiler.progress import Progress
from compiler.proof.audit import LAYER_NAME
from compiler.proof.evaluate import Runner
from compiler.proof.gate import upper_bound
from compiler.prune.ask import PruneAsk, read_ask
from compiler.prune.prune import GroupReport, PruneResult, prune_model
from compiler.prune.report import PruningReport
from compiler.prune.sparsity import is_sparse, sparsify
from compiler.variants import FloatScores, selection_frames
from edge_runtime.preprocess import FloatArray
from edge_runtime.tensors import Tensors

SAMPLES_MAX = 256
"""Calibration samples that pruning looks at, evenly spaced; each is run many times."""

SHARE = 0.5
"""Of the accepted cost: what ``auto`` may take on the selection data. The rest is for int8."""


@dataclass(frozen=True)
class Pruned:
    """What a build goes on with.

    floating: answers of the pruned model to the selection data, which int8 is to come near, and
        those of the source to the test data, which the gate compares with.
    report: ``None`` where nothing was asked for.
    """

    inputs: Inputs
    floating: FloatScores
    report: PruningReport | None


def prune_inputs(
    inputs: Inputs, floating: FloatScores, options: BuildOptions, progress: Progress
) -> Pruned:
    """Prune the float model as ``options`` ask; the inputs themselves where they ask for nothing.

    The test data have no part in it but for their number.

    Raises:
        CompileError: the runtime fails on the model.
    """
    ask = read_ask(options.prune, options.sparsity)
    if not (ask.channels or ask.sparse):
        return Pruned(inputs, floating, None)
    step = math.lcm(*(profile.channel_step for profile in inputs.profiles.values()))
    samples = _samples(inputs)
    judge = Judge(inputs, floating.selection, options.limits, options.workers)
    graph, result = inputs.graph, None
    if ask.channels:
        result = prune_model(
            graph,
            samples,
            amount=ask.amount,
            accept=judge if ask.auto else None,
            step=step,
            progress=progress,
        )
        graph = result.graph
    sparse: tuple[str, ...] = ()
    if ask.sparse:
        graph, nodes = sparsify(graph, samples, progress=progress)
        sparse = tuple(_layer_name(node) for node in nodes)
    layers = inputs.layers
    if graph is not inputs.graph:
        layers = _layers(graph, next(samples()))
    scores = floating.selection if graph is inputs.graph else judge.answer(graph)
    snr_db, agreement = judge.likeness(scores)
    total = sum(layer.macs for layer in inputs.layers)
    report = PruningReport(
        ask=ask,
        step=step,
        groups=result.groups if result else (),
        macs_before=total,
        macs_after=sum(layer.macs for layer in layers),
        sparse=sparse,
        snr_db=snr_db,
        agreement=agreement,
        reason=_reason(ask, result, step, judge, bool(sparse)),
    )
    return Pruned(
        replace(inputs, graph=graph, layers=layers),
        replace(floating, selection=scores),
        report,
    )


def pruning_doubts(report: PruningReport | None, plans: Sequence[Plan]) -> list[str]:
    """What a reader should know: what was asked and not done, and zeros that int8 has lost."""
    if report is None:
        return []
    # That the automatic one finds nothing to remove is an answer, and no reason to warn.
    found = [f"pruning: {report.reason}"] if report.reason and not report.ask.auto else []
    broken = {name for plan in plans for name in filled_layers(report.sparse, plan)}
    if broken:
        found.append(
            f"2:4 zeros were lost in {', '.join(sorted(broken))}: these layers gain nothing"
        )
    return found


def filled_layers(sparse: Sequence[str], plan: Plan) -> list[str]:
    """Those of the layers ``sparse`` whose int8 weights are not 2:4 any more."""
    found = []
    for node, layer in plan.layers.items():
        match = LAYER_NAME.match(node)
        if match and match.group() in sparse and layer.weight is not None:
            inputs = 1 if layer.op == "Conv" else 1 - layer.weight.axis
            if not is_sparse(layer.weight.values, inputs):
                found.append(match.group())
    return found


class Judge:
    """Whether a pruned float model is still good enough, on the selection data."""

    def __init__(self, inputs: Inputs, wanted: FloatArray, limits: Limits, workers: int) -> None:
        self._inputs = inputs
        self._wanted = wanted
        self._limits = limits
        self._workers = workers
        self._heads = tails_of(inputs.graph.prepared).heads
        self._sizes = Tensors(inputs.manifest.outputs).sizes
        self._single = inputs.manifest.single_score
        self.refused: list[str] = []

    def __call__(self, graph: FloatGraph) -> bool:
        """Judge ``graph``; what speaks against it is added to ``refused``."""
        given = self.answer(graph)
        manifest, data, why = self._inputs.manifest, self._inputs.data, ""
        y = data.selection.y
        if y is not None and len(y) != len(self._wanted):
            y = None  # only some of the frames were answered; see ``selection_frames``
        if manifest.task == "classification":
            lost, gained = expected_flips(self.logits(self._wanted), self.logits(given), y)
            why = verdict(lost, gained, len(data.test), self._limits.max_drop_pp / 100)
        labelled = data.test.y is not None
        if not why and (manifest.task != "classification" or not labelled):
            why = self._measured(given, y if labelled else None)
        if why:
            self.refused.append(why)
        return not why

    def _measured(self, given: FloatArray, y: Labels | None) -> str:
        """Why the gate's own metric does not accept ``given``, or "".

        It is what the gate measures, on the selection data and with ``SHARE`` of what is accepted;
        without labels, or with none that show anything, it is fidelity. Test data without labels
        make it fidelity, too, for classifiers as well: flips say nothing of the cosine.
        """
        manifest, limits = self._inputs.manifest, shared_limits(self._limits)
        try:
            gate = measure(manifest, self._wanted, given, y, limits).gate
        except DatasetError:
            gate = measure(manifest, self._wanted, given, None, limits).gate
        if gate.verdict == "pass":
            return ""
        seen = gate.interval
        bound = f"as low as {seen.lower:.5f}" if seen.at_least else f"{seen.upper:.2f} {seen.unit}"
        return (
            f"on {gate.n} selection samples the {seen.what} may be {bound}; {seen.limit:g} is what"
            f" pruning may take, {SHARE:g} of what is accepted"
        )

    def answer(self, graph: FloatGraph) -> FloatArray:
        """Scores of ``graph`` for the selection frames, float32 ``[n, classes]``."""
        manifest = self._inputs.manifest
        variant = msgspec.structs.replace(manifest.variants[0], scheme="float32")
        runner = Runner(graph.model.SerializeToString(), manifest, variant, self._workers)
        return runner.scores(selection_frames(self._inputs), "selection")

    def logits(self, scores: FloatArray) -> FloatArray:
        """What stood before the last Softmax or Sigmoid of the first output, a column a class."""
        head = "Sigmoid" if self._single == "probability" else self._heads[0]
        found = logits_from_scores(scores[:, : self._sizes[0]], head)
        if self._single is msgspec.UNSET:
            return found
        return np.concatenate([found / -2, found / 2], axis=1)

    def likeness(self, scores: FloatArray) -> tuple[float, float | None]:
        """(SNR of the logits in dB, share of equal classes) beside the source's answers; no share
        where the model names no classes."""
        snr = rows_snr_db(self._wanted, scores, self._heads, self._sizes)
        if self._inputs.manifest.task != "classification":
            return snr, None
        same = self.logits(scores).argmax(axis=1) == self.logits(self._wanted).argmax(axis=1)
        return snr, float(same.mean())


def expected_flips(wanted: FloatArray, given: FloatArray, y: Labels | None) -> tuple[float, float]:
    """Shares of answers (lost, gained) that are to be expected of data like these.

    Counting flips among 50 samples sees nothing finer than 2 pp. So each sample's margin, the
    distance of its best logit from the next, is held against the error that *every* sample's
    margin suffered: n margins and n errors make n^2 pairs. It takes errors to be independent of
    margins, as those of a linear fit nearly are.

    Args:
        wanted, given: logits ``[n, classes]`` of the source and of the pruned model.
        y: class ids; without them every answer of the source counts as right.
    """
    rows = np.arange(len(wanted))
    ranked = np.argsort(-wanted, axis=1, kind="stable")
    best, second = ranked[:, 0], ranked[:, 1]
    margins = wanted[rows, best].astype(np.float64) - wanted[rows, second]
    rest = given.astype(np.float64)
    now = rest[rows, best].copy()
    rest[rows, best] = -np.inf
    errors = np.sort(now - rest.max(axis=1) - margins)
    chances = np.searchsorted(errors, -margins, side="left") / len(rows)
    right = np.ones(len(rows), bool) if y is None else best == y
    regained = np.zeros(len(rows), bool) if y is None else (second == y) & ~right
    return float(chances[right].sum() / len(rows)), float(chances[regained].sum() / len(rows))


def shared_limits(limits: Limits) -> Limits:
    """``SHARE`` of what a build may cost, for pruning alone."""
    return replace(
        limits,
        max_drop_pp=SHARE * limits.max_drop_pp,
        max_error_increase_percent=SHARE * limits.max_error_increase_percent,
        min_cosine=1 - SHARE * (1 - limits.min_cosine),
    )


def verdict(lost: float, gained: float, tests: int, limit: float) -> str:
    """Why a pruned model is not accepted, or "".

    What is lost may be ``SHARE`` of the accepted drop at most, whatever is gained: few selection
    samples are answered wrongly by the source, so gains are guessed from a handful. And at these
    rates of flips the gate would have to pass with as many test samples as there are.

    Args:
        lost, gained: shares, as ``expected_flips`` gives them.
        tests: number of test samples.
        limit: the accepted drop, a fraction.
    """
    told = f"{100 * lost:.2f} % of the answers would be lost and {100 * gained:.2f} % gained"
    if lost > SHARE * limit:
        return f"{told}, more than {SHARE:g} of the accepted drop of {100 * limit:g} pp"
    bound = upper_bound(tests, lost * tests, gained * tests)
    if bound > limit:
        return (
            f"{told}, and {tests} test samples could then prove a drop of at most"
            f" {100 * bound:.2f} pp only (limit {100 * limit:g})"
        )
    return ""


def _samples(inputs: Inputs) -> Samples:
    frames = inputs.data.fit.x
    wanted = min(len(frames), SAMPLES_MAX)
    rows = np.unique(np.linspace(0, len(frames) - 1, wanted).round().astype(int))
    return stream(frames[rows], inputs.preprocessor, inputs.data.fit.role)


def _layers(graph: FloatGraph, example: FloatArray) -> list[Layer]:
    """``list_layers`` under the names that the source's layers have."""
    found = []
    for layer in list_layers(graph, example):
        name = _layer_name(layer.name)
        found.append(replace(layer, name=name, source_name=graph.names.get(name, name)))
    return found


def _layer_name(node: str) -> str:
    match = LAYER_NAME.match(node)
    return match.group() if match else node


def _reason(
    ask: PruneAsk, result: PruneResult | None, step: int, judge: Judge, sparse: bool
) -> str:
    if ask.sparse and not sparse:
        return "no layer has input channels in fours, so none became sparse"
    if result is None:
        return ""
    if ask.amount is not None:
        saved = 1 - result.macs_after / result.macs_before
        if saved >= ask.amount - 1e-9:
            return ""
        return (
            f"{_obstacle(result.groups, step)}: {saved:.1%} of the MACs went, not {ask.amount:.1%}"
        )
    if judge.refused and not result.pruned:
        # Halving ends at the smallest step there is.
        return f"even the smallest step costs too much: {judge.refused[-1]}"
    return "" if result.pruned else _obstacle(result.groups, step)


def _obstacle(groups: Sequence[GroupReport], step: int) -> str:
    """What keeps more channels from going."""
    prunable = [group for group in groups if group.frozen is None]
    if not groups:
        return "no layer makes channels that could be removed"
    if not prunable:
        return f"no channel may be removed ({groups[0].frozen})"
    widest = max(group.channels_before for group in prunable)
    if widest <= step:
        return f"no group of channels is wider than the targets' step of {step}"
    return f"every group is down to the targets' step of {step}"
