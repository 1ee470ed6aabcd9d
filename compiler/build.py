"""``edge-compile build``, stage after stage. Each stage's work is in the module named after it."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from dataclasses import replace
from itertools import chain

from compiler.bundle.drift import drift_reference
from compiler.bundle.outdir import BUNDLE, check_output, staging
from compiler.bundle.pack import model_card, pack_bundle
from compiler.calibrate.calibration import Calibration
from compiler.calibrate.statcache import StatCache, cache_folder
from compiler.emit.variant import audit_variant, check_format
from compiler.graph.memory import Memory, peak_bytes, tensor_sizes
from compiler.inputs import load_inputs
from compiler.metrics.measure import measure
from compiler.options import BuildOptions
from compiler.progress import Progress, silent
from compiler.proof.audit import audited
from compiler.proof.budgets import budgets_section, spendings, within
from compiler.proof.reuse import Ledger, reuse_section, reuse_warnings
from compiler.prune.stage import prune_inputs, pruning_doubts
from compiler.report.build import BuildReport
from compiler.report.contents import Contents
from compiler.report.html import render_html
from compiler.report.outputs import outputs_section
from compiler.report.pruning import pruning_section
from compiler.report.sbom import SBOM_FILE
from compiler.report.target import TargetReport
from compiler.variants import CompiledVariant, compile_variant, float_scores

Clock = Callable[[], float]
"""Seconds from an arbitrary start, never going back."""


def build(options: BuildOptions, *, clock: Clock, progress: Progress = silent) -> BuildReport:
    """Compile, prove, and write bundle and reports to ``options.out``.

    Nothing is written before the gate has spoken; when it does not pass there is no bundle, and
    one of an earlier run is taken away.

    Raises:
        CompileError: bad input or an output directory that cannot be used; nothing was written.
        ContractError: an unknown or malformed target.
    """
    begin = clock()
    check_output(options.out)
    progress(f"reading {options.model.name} and the data")
    inputs = load_inputs(options, progress)
    for variant in inputs.manifest.variants:
        check_format(inputs.graph, variant)
    data = inputs.data
    progress(f"answering {len(data.test)} test samples in float")
    pruned = prune_inputs(inputs, float_scores(inputs, options.workers), options, progress)
    inputs, floating = pruned.inputs, pruned.floating
    calibration = Calibration(inputs, StatCache(cache_folder()))
    made: dict[str, CompiledVariant] = {}
    reports: dict[str, TargetReport] = {}
    for variant in inputs.manifest.variants:
        if variant.file not in made:
            progress(f"{variant.file}: calibrating with {len(data.fit)} samples")
            made[variant.file] = compile_variant(
                inputs, variant, calibration, floating, options, progress
            )
        done = made[variant.file]
        measured = measure(
            inputs.manifest, floating.test, done.test_scores, data.test.y, options.limits
        )
        kernels = audit_variant(done.files.model, variant, inputs.layers)
        kernels = replace(kernels, uncounted=inputs.uncounted)
        sizes = tensor_sizes(done.plan.model, calibration.x[:1])
        memory = Memory(
            len(done.files.model), peak_bytes(done.plan.model, sizes, set(done.plan.grids))
        )
        macs = sum(layer.macs for layer in inputs.layers)
        spent = spendings(options.budgets, memory, macs, inputs.profiles[variant.target])
        reports[variant.target] = TargetReport(
            target=variant.target,
            title=inputs.profiles[variant.target].title,
            scheme=variant.scheme,
            gate=within(audited(measured.gate, kernels, done.plan), spent),
            measured=measured,
            audit=kernels,
            candidates=done.candidates,
            plan=done.plan,
            layers=done.layers,
            bytes_float=inputs.source.size_bytes,
            bytes_int8=len(done.files.model),
            sections=(
                outputs_section(inputs.manifest, floating.test, done.test_scores),
                budgets_section(spent),
            ),
        )
    earlier = Ledger(cache_folder().parent / "tests").judge(
        data.test.digest, {report.plan.digest() for report in reports.values()}
    )
    warnings = [
        *inputs.source.notes,
        *inputs.previous.notes,
        *data.warnings,
        *reuse_warnings(earlier),
        *chain.from_iterable(map(_doubts, reports.values())),
    ]
    warnings += pruning_doubts(pruned.report, [done.plan for done in made.values()])
    passed = all(report.gate.verdict == "pass" for report in reports.values())
    with staging(options.out) as stage:
        digest = None
        if passed:
            progress("packing the bundle")
            first = made[inputs.manifest.variants[0].file]
            digest = pack_bundle(
                stage.bundle,
                inputs.manifest,
                [done.files for done in made.values()],
                drift_reference(first.tuned, inputs.manifest),
                reports,
                pruned.report,
            )
        elif (options.out / BUNDLE).exists():
            warnings.append("the bundle of an earlier build was removed: the gate was not passed")
        contents = Contents(inputs, calibration, floating)
        described = [
            contents.of_target(
                report, made[inputs.manifest.variant_for(report.target).file], progress
            )
            for report in reports.values()
        ]
        lineage = inputs.manifest.lineage
        report = BuildReport(
            name=inputs.manifest.name,
            version=inputs.manifest.version,
            targets=tuple(described),
            bundle_digest=digest,
            duration_s=clock() - begin,
            command=options.command,
            machine=_machine(),
            lineage=lineage,
            warnings=tuple(warnings),
            sections=(
                *pruning_section(pruned.report),
                *contents.of_build(),
                reuse_section(earlier),
            ),
            model_card=model_card(inputs.manifest, reports, pruned.report),
        )
        stage.publish(
            {
                "report.json": report.json_bytes(),
                "report.html": render_html(report),
                SBOM_FILE: report.sbom_bytes(),
            }
        )
    return report


def _doubts(report: TargetReport) -> list[str]:
    """What a reader should know although the gate may have passed."""
    found = []
    if words := report.audit.uncounted_words:
        found.append(
            f"{report.target}: multiplications without a count, so the share of the work that runs"
            f" in int8 is not known: {words}"
        )
    broken = {layer.name for layer in report.audit.broken(report.plan)}
    total = sum(layer.macs for layer in report.audit.layers)
    for layer in report.audit.left_float:
        why = "although its plan says int8" if layer.name in broken else "as planned"
        found.append(
            f"{report.target}: {layer.op} {layer.source_name[:80]!r} runs in float {why}"
            f" ({layer.macs:,} MACs, {layer.macs / total:.2%})"
        )
    if report.bytes_int8 >= report.bytes_float:
        found.append(
            f"{report.target}: the int8 model is not smaller ({report.bytes_int8:,} bytes of"
            f" {report.bytes_float:,})"
        )
    return found


def _machine() -> dict[str, str]:
    return {
        "system": f"{platform.system()} {platform.release()}",
        "arch": platform.machine(),
        "cpus": str(os.cpu_count()),
        "python": platform.python_version(),
    }
