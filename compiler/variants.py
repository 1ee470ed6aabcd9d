"""Make one variant: search a plan, write it, take golden vectors, answer the test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from compiler.bundle.golden import choose_rows, golden_count, golden_vectors, spread_rows
from compiler.bundle.pack import VariantFiles
from compiler.bundle.tuned import Tuned, observe
from compiler.calibrate.calibration import Calibration
from compiler.datasets.frames import Frames, FrameStore
from compiler.emit.variant import (
    activations_of,
    emit_scale_cache,
    emit_variant,
    variant_tolerances,
)
from compiler.errors import CompileError
from compiler.inputs import Inputs
from compiler.options import BuildOptions
from compiler.plan.diagnose import LayerFidelity, diagnose
from compiler.plan.fallback import GAIN_MIN_DB, SNR_GOOD_DB, in_float, layers_to_free
from compiler.plan.fidelity import tails_of
from compiler.plan.plan import Plan
from compiler.plan.search import Search, Trial
from compiler.plan.simulate import batch_for
from compiler.progress import Progress
from compiler.proof.audit import LAYER_NAME
from compiler.proof.evaluate import Runner
from compiler.proof.select import Candidate, in_order, rank_trials
from edge_contract.golden import GoldenVectors
from edge_contract.model import Variant
from edge_runtime.classes import ClassScores
from edge_runtime.golden import check_golden
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession
from edge_runtime.tensors import Tensors

ANSWERS_LIMIT_BYTES = 8 << 20
"""What one model's answers to the selection data may take in memory."""

SELECTION_ROWS_MIN = 64

FREED_MAX = 6
"""Sets of layers that are tried in float; each costs a run over the selection data."""


@dataclass(frozen=True)
class FloatScores:
    """The float model's answers, float32 ``[n, values]``."""

    selection: FloatArray
    test: FloatArray


@dataclass(frozen=True)
class CompiledVariant:
    """One finished file; targets that name it share it.

    plan: what was decided.
    candidates: the finalists, the chosen one first.
    layers: its int8 layers, the one that hurts most first.
    tuned: what it made of the calibration frames and, where they came from a file of their own,
        the selection frames after them.
    test_scores: its answers to the test frames.
    """

    files: VariantFiles
    plan: Plan
    candidates: tuple[Candidate, ...]
    layers: tuple[LayerFidelity, ...]
    tuned: Tuned
    test_scores: FloatArray


def float_variant(inputs: Inputs) -> Variant:
    """The source model itself, as a variant that ``edge_runtime`` can run."""
    return msgspec.structs.replace(
        inputs.manifest.variants[0], runtime="onnxruntime", scheme="float32", accelerator=""
    )


def float_scores(inputs: Inputs, workers: int) -> FloatScores:
    """The float model's answers to selection and test frames, through ``edge_runtime``.

    Raises:
        CompileError: a frame is refused, or a score is NaN.
    """
    model = inputs.graph.model.SerializeToString()
    runner = Runner(model, inputs.manifest, float_variant(inputs), workers=workers)
    return FloatScores(
        selection=runner.scores(selection_frames(inputs), "selection"),
        test=runner.scores(inputs.data.test.x, "test"),
    )


def selection_frames(inputs: Inputs) -> Frames:
    """The selection frames that finalists answer: all, or evenly spaced ones where their answers
    would fill memory."""
    x = inputs.data.selection.x
    row_bytes = 4 * sum(Tensors(inputs.manifest.outputs).sizes)
    most = max(SELECTION_ROWS_MIN, ANSWERS_LIMIT_BYTES // row_bytes)
    if len(x) <= most:
        return x
    index = np.unique(np.linspace(0, len(x) - 1, most).round().astype(np.int64))
    return x.rows(index) if isinstance(x, FrameStore) else x[index]


def macs_by_node(inputs: Inputs, ranking: Sequence[LayerFidelity]) -> dict[str, int]:
    """Multiply-accumulates under the plan's names of the layers."""
    known = {layer.name: layer.macs for layer in inputs.layers}
    found: dict[str, int] = {}
    for layer in ranking:
        match = LAYER_NAME.match(layer.node)
        if match and match.group() in known:
            found[layer.node] = known[match.group()]
    return found


def compile_variant(
    inputs: Inputs,
    variant: Variant,
    calibration: Calibration,
    floating: FloatScores,
    options: BuildOptions,
    progress: Progress,
) -> CompiledVariant:
    """The int8 file of ``variant`` and its answers.

    The test frames are answered once, by the chosen candidate alone.

    Raises:
        CompileError: no plan can be made, the runtime fails, or the golden vectors do not hold on
            the very machine that made them.
    """
    data, graph, workers = inputs.data, inputs.graph, options.workers
    macs = sum(layer.macs for layer in inputs.layers)
    search = Search(
        model=graph.prepared,
        collect=calibration.collect,
        x=calibration.x,
        batch=batch_for(macs) if graph.batch_is_free else 1,
        macs=macs,
        activations=activations_of(variant),
        whole_ends=variant.runtime == "litert",
        effort=options.effort,
        previous=inputs.previous.variants.get(variant.target),
    )
    trials = search.trials(progress)
    selection = selection_frames(inputs)
    outputs = Tensors(inputs.manifest.outputs)
    heads = tails_of(graph.prepared).heads
    classify = inputs.manifest.task == "classification"
    classes = ClassScores(inputs.manifest) if classify else None

    def rank(found: Sequence[Trial]) -> list[Candidate]:
        scores = floating.selection
        return rank_trials(found, scores, selection_scores, heads, outputs.sizes, classes=classes)

    def selection_scores(trial: Trial) -> FloatArray:
        runner = Runner(emit_variant(trial.plan, variant), inputs.manifest, variant, workers)
        return runner.scores(selection, "selection")

    progress(f"answering {len(selection)} selection samples with {len(trials)} finalists")
    candidates = rank(trials)
    chosen = candidates[0].trial

    def hurting(trial: Trial) -> tuple[LayerFidelity, ...]:
        return diagnose(trial.plan, trial.floating, calibration.x, search.batch, macs)

    layers = hurting(chosen)
    if candidates[0].snr_db < SNR_GOOD_DB and options.effort != "fast":
        progress(f"leaving layers in float: int8 gives {candidates[0].snr_db:.1f} dB only")
        freed = [
            in_float(chosen, nodes)
            for nodes in layers_to_free(layers, macs_by_node(inputs, layers), macs)[:FREED_MAX]
        ]
        tried = rank(freed)
        if tried and tried[0].snr_db >= candidates[0].snr_db + GAIN_MIN_DB:
            candidates = in_order([*candidates, *tried])
            chosen = candidates[0].trial
            layers = hurting(chosen)
    plan = chosen.plan
    model = emit_variant(plan, variant)
    runner = Runner(model, inputs.manifest, variant, workers)
    parts = [data.whole] if data.was_split else [data.whole, data.selection]
    tuned = observe(runner, parts, inputs.manifest)
    spreads = dict(zip(outputs.names, tuned.spreads, strict=True))
    tolerances = variant_tolerances(plan, model, variant, spreads)
    golden = _golden(runner, tuned, inputs, tolerances)
    result = check_golden(ModelSession(model, inputs.manifest, variant), golden)
    if not result.passed:
        raise CompileError(
            f"the int8 model gives other answers when it is loaded again: {result.sentence()}",
            hint="the runtime on this machine is not deterministic; please report the model",
        )
    return CompiledVariant(
        files=VariantFiles(variant, model, golden, emit_scale_cache(plan, variant)),
        plan=plan,
        candidates=tuple(candidates),
        layers=layers,
        tuned=tuned,
        test_scores=runner.scores(data.test.x, "test"),
    )


def _golden(runner: Runner, tuned: Tuned, inputs: Inputs, steps: list[float]) -> GoldenVectors:
    frames = inputs.data.whole.x
    values = sum(Tensors(inputs.manifest.outputs).sizes)
    wanted = golden_count(len(frames), frames[0].nbytes, 4 * values)
    if inputs.manifest.task == "classification":
        own = slice(len(frames))
        rows = choose_rows(tuned.margins[own], tuned.class_ids[own], steps[0], wanted)
    else:
        rows = spread_rows(len(frames), wanted)
    chosen = frames[rows]
    return golden_vectors(chosen, runner.scores(chosen, "calibration"), steps)
