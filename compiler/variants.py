"""Make one scheme's variant: choose a recipe, quantise, take golden vectors, answer the test."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec
import numpy as np
import onnx

from compiler.dataset import stream
from compiler.errors import CompileError
from compiler.evaluate import Runner
from compiler.golden import choose_golden
from compiler.inputs import Inputs
from compiler.pack import VariantFiles
from compiler.quantize import Recipe, quantize, score_step
from compiler.ranges import TensorStats, collect_stats
from compiler.select import Candidate, rank_recipes
from edge_contract.model import Variant
from edge_runtime.golden import check_golden
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession


@dataclass(frozen=True)
class Calibration:
    """What calibration saw: with the part for candidates, and with all of it."""

    fit: dict[str, TensorStats]
    whole: dict[str, TensorStats]


@dataclass(frozen=True)
class FloatScores:
    """The float model's answers, float32 ``[n, classes]``."""

    selection: FloatArray
    test: FloatArray


@dataclass(frozen=True)
class CompiledScheme:
    """The finished variant of one int8 scheme.

    candidates: the recipes tried, the chosen one first.
    tuned_scores: its answers to the calibration frames and, where they came from a file of their
        own, the selection frames after them.
    test_scores: its answers to the test frames.
    """

    files: VariantFiles
    candidates: tuple[Candidate, ...]
    tuned_scores: FloatArray
    test_scores: FloatArray


def calibrate(inputs: Inputs) -> Calibration:
    """Run the float graph over the calibration data.

    Raises:
        CompileError: a sample is refused, or drives the model to NaN.
    """
    data = inputs.data
    fit = collect_stats(inputs.graph, stream(data.fit.x, inputs.preprocessor, "calibration"))
    if not data.was_split:
        return Calibration(fit, fit)
    whole = collect_stats(inputs.graph, stream(data.whole.x, inputs.preprocessor, "calibration"))
    return Calibration(fit, whole)


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
    inputs: Inputs, variant: Variant, calibration: Calibration, floating: FloatScores, workers: int
) -> CompiledScheme:
    """The int8 variant of ``variant.scheme`` and its answers.

    The test frames are answered once, by the chosen candidate alone.

    Raises:
        CompileError: the quantiser or the runtime fails, or the golden vectors do not hold on
            the very machine that made them.
    """
    data, graph = inputs.data, inputs.graph

    def selection_scores(recipe: Recipe) -> FloatArray:
        model = quantize(graph, calibration.fit, variant.scheme, recipe)
        runner = Runner(model, inputs.manifest, variant, workers)
        return runner.scores(data.selection.x, "selection")

    candidates = rank_recipes(floating.selection, selection_scores)
    model = quantize(graph, calibration.whole, variant.scheme, candidates[0].recipe)
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
        candidates=tuple(candidates),
        tuned_scores=tuned,
        test_scores=runner.scores(data.test.x, "test"),
    )
