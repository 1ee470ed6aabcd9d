"""What the report of a build holds beyond the evidence, in the order of the page.

Everything here is made after the verdict: it is for people, and none of it enters the bundle.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from compiler.calibrate.calibration import Calibration
from compiler.graph.memory import Memory, peak_bytes, tensor_sizes
from compiler.inputs import Inputs
from compiler.plan.structure import survey
from compiler.progress import Progress
from compiler.proof.audit import optimised_graph
from compiler.proof.latency import Latency, measure_latency
from compiler.report.confusion import confusion_section
from compiler.report.contract import contract_section
from compiler.report.exclusions import exclusions_section, suggest_exclusions
from compiler.report.flips import flips_section, worst_flips
from compiler.report.histograms import histograms, histograms_section
from compiler.report.operators import operators_section
from compiler.report.resources import resources_section
from compiler.report.section import Section
from compiler.report.target import TargetReport
from compiler.report.timing import timing_section
from compiler.variants import CompiledVariant, FloatScores, float_variant
from edge_contract.model import Variant
from edge_runtime.classes import ClassScores
from edge_runtime.session import ModelSession

_FRAMES_TIMED = 16


class Contents:
    """Makes the sections of one build; what two targets share is measured once.

    Args:
        inputs: of the build.
        calibration: its statistics, still at hand.
        floating: the float model's answers.
    """

    def __init__(self, inputs: Inputs, calibration: Calibration, floating: FloatScores) -> None:
        self._inputs = inputs
        self._calibration = calibration
        self._floating = floating
        self._latency: dict[str, Latency] = {}

    def of_target(
        self, report: TargetReport, done: CompiledVariant, progress: Progress
    ) -> TargetReport:
        """The report with its sections, before those that it has.

        Raises:
            CompileError, ModelRuntimeError: the runtime fails.
        """
        inputs = self._inputs
        profile = inputs.profiles[report.target]
        variant = inputs.manifest.variant_for(report.target)
        if variant.file not in self._latency:
            progress(f"{report.scheme}: timing float and int8 in turns on this machine")
            self._latency[variant.file] = self._timed(variant, done)
        sections = (
            self._resources(report, done),
            timing_section(self._latency[variant.file], report, profile.arch, variant.runtime),
            *self._classes(report, done),
            *self._operators(variant, done),
            self._exclusions(report),
            self._ranges(report, done),
        )
        return replace(report, sections=(*sections, *report.sections))

    def of_build(self) -> tuple[Section, ...]:
        """Sections of the build as a whole."""
        return (contract_section(self._inputs, self._calibration.x),)

    def _classes(self, report: TargetReport, done: CompiledVariant) -> tuple[Section, ...]:
        """What only a classifier with labels has."""
        data, manifest = self._inputs.data.test, self._inputs.manifest
        if report.comparison is None or data.y is None:
            return ()
        classes = ClassScores(manifest)
        floating, int8 = classes.of(self._floating.test), classes.of(done.test_scores)
        flips = worst_flips(floating, int8, data.y, manifest.labels)
        return (
            confusion_section(floating, int8, data.y, manifest.labels),
            flips_section(flips, data.x, manifest.preprocess),
        )

    def _timed(self, variant: Variant, done: CompiledVariant) -> Latency:
        inputs = self._inputs
        floating = ModelSession(
            inputs.graph.model.SerializeToString(),
            inputs.manifest,
            float_variant(inputs),
        )
        test = inputs.data.test.x
        frames = [test[row] for row in range(min(_FRAMES_TIMED, len(test)))]
        return measure_latency(inputs, variant, floating, done.files.model, frames)

    def _resources(self, report: TargetReport, done: CompiledVariant) -> Section:
        model = done.plan.model
        sizes = tensor_sizes(model, np.asarray(self._calibration.x[:1]))
        int8 = peak_bytes(model, sizes, set(done.plan.grids))
        return resources_section(
            report,
            Memory(report.bytes_float, peak_bytes(model, sizes, frozenset())),
            Memory(report.bytes_int8, int8),
            self._inputs.profiles[report.target],
        )

    def _operators(self, variant: Variant, done: CompiledVariant) -> list[Section]:
        if variant.runtime != "onnxruntime":
            return []  # other runtimes do not hand out the graph that they execute
        return [operators_section(optimised_graph(done.files.model, variant.scheme))]

    def _exclusions(self, report: TargetReport) -> Section:
        macs = {layer.source_name: layer.macs for layer in report.audit.layers}
        return exclusions_section(suggest_exclusions(report.ranking(), macs, sum(macs.values())))

    def _ranges(self, report: TargetReport, done: CompiledVariant) -> Section:
        # The very question that the search asked, so the answer is at hand.
        floating = done.candidates[0].trial.floating
        shared = survey(floating).shared
        stats = self._calibration.collect(floating, set(shared.values()))
        known = {tensor: stats[head] for tensor, head in shared.items() if head in stats}
        return histograms_section(histograms(report.plan, report.ranking(), known))
