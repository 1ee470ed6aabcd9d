"""Make one scheme's variant: search a plan, write it, take golden vectors, answer the test."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection
from dataclasses import dataclass, replace

import msgspec
import numpy as np
import onnx
from onnx import ModelProto

from compiler.dataset import stream
from compiler.emit.onnx_qdq import dialect_of, emit_onnx
from compiler.errors import CompileError
from compiler.evaluate import Runner
from compiler.golden import choose_golden
from compiler.inputs import Inputs
from compiler.options import BuildOptions
from compiler.pack import VariantFiles
from compiler.plan.diagnose import LayerFidelity, diagnose
from compiler.plan.fidelity import logits_of
from compiler.plan.plan import Plan
from compiler.plan.search import SAMPLES_MAX, Search, Trial
from compiler.plan.simulate import batch_for
from compiler.progress import Progress
from compiler.ranges import TensorStats, collect_stats
from compiler.select import Candidate, rank_trials
from compiler.tail import score_step
from edge_contract.model import Variant
from edge_runtime.golden import check_golden
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession

_SAMPLES_LIMIT_BYTES = 64 << 20
"""What the samples of the search may take in memory."""


class Calibration:
    """What the search asks of the calibration data; asked again, it answers from memory.

    x: some of the samples as model inputs, float32 ``[n, ...]``, evenly spaced.
    """

    def __init__(self, inputs: Inputs) -> None:
        self._graph = inputs.graph
        self._data = inputs.data.fit
        self._preprocessor = inputs.preprocessor
        self._known: dict[bytes, dict[str, TensorStats]] = {}
        frames = self._data.x
        fit = max(1, _SAMPLES_LIMIT_BYTES // (4 * math.prod(inputs.graph.input_shape)))
        wanted = min(len(frames), SAMPLES_MAX, fit)
        rows = np.unique(np.linspace(0, len(frames) - 1, wanted).round().astype(int))
        self.x = np.concatenate(list(stream(frames[rows], inputs.preprocessor, self._data.role)()))

    def collect(self, model: ModelProto, wanted: Collection[str]) -> dict[str, TensorStats]:
        """Statistics of the tensors ``wanted`` of ``model`` over all samples.

        Raises:
            CompileError: a sample is refused, or drives the model to NaN.
        """
        state = hashlib.sha256(model.SerializeToString(deterministic=True))
        state.update("\n".join(sorted(wanted)).encode())
        key = state.digest()
        if key not in self._known:
            samples = stream(self._data.x, self._preprocessor, self._data.role)
            graph = replace(self._graph, prepared=model)
            self._known[key] = collect_stats(graph, samples, wanted)
        return self._known[key]


@dataclass(frozen=True)
class FloatScores:
    """The float model's answers, float32 ``[n, classes]``."""

    selection: FloatArray
    test: FloatArray


@dataclass(frozen=True)
class CompiledScheme:
    """The finished variant of one int8 scheme.

    plan: what was decided.
    candidates: the finalists, the chosen one first.
    layers: its int8 layers, the one that hurts most first.
    tuned_scores: its answers to the calibration frames and, where they came from a file of their
        own, the selection frames after them.
    test_scores: its answers to the test frames.
    """

    files: VariantFiles
    plan: Plan
    candidates: tuple[Candidate, ...]
    layers: tuple[LayerFidelity, ...]
    tuned_scores: FloatArray
    test_scores: FloatArray


def float_scores(inputs: Inputs, workers: int) -> FloatScores:
    """The float model's answers to selection and test frames, through ``edge_runtime``.

    Raises:
        CompileError: a frame is refused, or a score is NaN.
    """
    variant = msgspec.structs.replace(inputs.manifest.variants[0], scheme="float32")
    runner = Runner(
        inputs.graph.model.SerializeToString(), inputs.manifest, variant, workers=workers
    )
    return FloatScores(
        selection=runner.scores(inputs.data.selection.x, "selection"),
        test=runner.scores(inputs.data.test.x, "test"),
    )


def compile_scheme(
    inputs: Inputs,
    variant: Variant,
    calibration: Calibration,
    floating: FloatScores,
    options: BuildOptions,
    progress: Progress,
) -> CompiledScheme:
    """The int8 variant of ``variant.scheme`` and its answers.

    The test frames are answered once, by the chosen candidate alone.

    Raises:
        CompileError: no plan can be made, the runtime fails, or the golden vectors do not hold on
            the very machine that made them.
    """
    data, graph, workers = inputs.data, inputs.graph, options.workers
    dialect = dialect_of(variant.scheme)
    macs = sum(layer.macs for layer in inputs.layers)
    search = Search(
        model=graph.prepared,
        collect=calibration.collect,
        x=calibration.x,
        batch=batch_for(macs) if graph.batch_is_free else 1,
        macs=macs,
        activations="symmetric" if dialect == "jetson" else "asymmetric",
        effort=options.effort,
    )
    trials = search.trials(progress)

    def selection_scores(trial: Trial) -> FloatArray:
        runner = Runner(emit_onnx(trial.plan, dialect), inputs.manifest, variant, workers)
        return runner.scores(data.selection.x, "selection")

    progress(f"answering {len(data.selection)} selection samples with {len(trials)} finalists")
    _, head = logits_of(graph.prepared)
    candidates = rank_trials(trials, floating.selection, selection_scores, head)
    chosen = candidates[0].trial
    plan = chosen.plan
    model = emit_onnx(plan, dialect)
    runner = Runner(model, inputs.manifest, variant, workers)
    whole_scores = runner.scores(data.whole.x, "calibration")
    step = score_step(onnx.load_model_from_string(model), whole_scores)
    golden = choose_golden(data.whole.x, whole_scores, step)
    result = check_golden(ModelSession(model, inputs.manifest, variant), golden)
    if not result.passed:
        raise CompileError(
            f"the int8 model gives other answers when it is loaded again: {result.sentence()}",
            hint="the runtime on this machine is not deterministic; please report the model",
        )
    tuned = whole_scores
    if not data.was_split:
        tuned = np.concatenate([whole_scores, runner.scores(data.selection.x, "selection")])
    return CompiledScheme(
        files=VariantFiles(model, golden),
        plan=plan,
        candidates=tuple(candidates),
        layers=diagnose(plan, chosen.floating, calibration.x, search.batch, macs),
        tuned_scores=tuned,
        test_scores=runner.scores(data.test.x, "test"),
    )
