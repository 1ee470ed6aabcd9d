"""Put a bundle together: every byte in it follows from inputs, tool versions and options alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from compiler.bundle.formats import format_of
from compiler.prune.report import PruningReport
from compiler.report.target import TargetReport
from compiler.singlescore import score_sentence
from edge_contract.codec import encode_json
from edge_contract.golden import GoldenVectors, encode_golden
from edge_contract.layout import write_bundle
from edge_contract.manifest import DOC, WEIGHT, WEIGHT_CONFIG, ConfigDetail
from edge_contract.model import (
    DRIFT_REFERENCE_FILE,
    EVIDENCE_FILE,
    MODEL_CARD_FILE,
    MODEL_FILE,
    ModelManifest,
    TensorSpec,
    Variant,
)
from edge_contract.reference import DriftReference


@dataclass(frozen=True)
class VariantFiles:
    """What one variant puts into the bundle; targets of the same file share it."""

    variant: Variant
    model: bytes
    golden: GoldenVectors
    scale_cache: bytes | None = None


def pack_bundle(
    target: Path,
    manifest: ModelManifest,
    variants: Sequence[VariantFiles],
    reference: DriftReference,
    reports: Mapping[str, TargetReport],
    pruning: PruningReport | None = None,
) -> str:
    """Write the bundle directory ``target`` and return its digest.

    Args:
        target: must not exist.
        manifest: ``model.json``.
        variants: the files of each, no file twice.
        reference: the drift reference.
        reports: target -> what was proven of it.
        pruning: ``None`` where it was not asked for.
    """
    files: dict[str, tuple[str, bytes]] = {
        MODEL_FILE: (WEIGHT_CONFIG, encode_json(manifest)),
        DRIFT_REFERENCE_FILE: (WEIGHT_CONFIG, reference.encode()),
        EVIDENCE_FILE: (DOC, encode_json(evidence(manifest, reports, pruning))),
        MODEL_CARD_FILE: (DOC, model_card(manifest, reports, pruning).encode()),
    }
    for made in variants:
        files[made.variant.file] = (WEIGHT, made.model)
        files[made.variant.golden] = (WEIGHT_CONFIG, encode_golden(made.golden))
        if made.scale_cache is not None:
            files[made.variant.scale_cache] = (WEIGHT_CONFIG, made.scale_cache)
    schemes = sorted({made.variant.scheme for made in variants})
    formats = sorted({format_of(made.variant) for made in variants})
    return write_bundle(
        target,
        name=manifest.name,
        version=manifest.version,
        files=files,
        detail=ConfigDetail(
            format="+".join(formats),
            precision="int8",
            quantization=f"static, per-channel weights, {', '.join(schemes)}",
        ),
    )


def evidence(
    manifest: ModelManifest,
    reports: Mapping[str, TargetReport],
    pruning: PruningReport | None = None,
) -> dict[str, object]:
    """What was proven, of which inputs, by which tools; without times, paths or machine."""
    return {
        "schema": 1,
        "name": manifest.name,
        "version": manifest.version,
        "lineage": manifest.lineage,
        "targets": {target: report.evidence() for target, report in reports.items()},
        **({"pruning": pruning.evidence()} if pruning else {}),
    }


def model_card(
    manifest: ModelManifest,
    reports: Mapping[str, TargetReport],
    pruning: PruningReport | None = None,
) -> str:
    """A page for people (Markdown)."""
    shown = ", ".join(manifest.labels[:50]) + (" ..." if len(manifest.labels) > 50 else "")
    what = {
        "classification": f"A classifier with {len(manifest.labels)} classes",
        "regression": "A regression model",
        "detection": "A detector",
        "embedding": "An embedding model",
    }[manifest.task]
    lines = [
        f"# {manifest.name} {manifest.version}",
        "",
        f"{what}, quantised to int8 by `edge-compile`.",
        "",
        *(
            f"- Input: `{entry.name}`, float32, {_shape(entry)}, after the preprocessing in"
            " `model.json`"
            for entry in manifest.inputs
        ),
        *(f"- Output: `{made.name}`, {made.dtype}, {_shape(made)}" for made in manifest.outputs),
        *([f"- Classes: {shown}"] if shown else []),
        *([f"- The one score is {said}"] if (said := score_sentence(manifest)) else []),
        *([f"- Pruned before it was quantised: {pruning.sentence()}"] if pruning else []),
        "",
        "| target | scheme | judged (95 %) | limit | figures | layers in int8 |",
        "|---|---|---|---|---|---|",
    ]
    for target, report in reports.items():
        judged = report.gate.interval
        bound = (
            f"at least {judged.lower:.4f}"
            if judged.at_least
            else f"at most {judged.upper:.2f} {judged.unit}"
        )
        figures = (
            target,
            report.scheme,
            f"{judged.what} {bound}",
            f"{judged.limit:g}",
            "; ".join(f"{f.title} {f.value} ({f.note})" for f in report.measured.figures),
            f"{report.audit.seen} of {report.audit.expected}",
        )
        lines.append(f"| {' | '.join(figures)} |")
    samples = next(iter(reports.values())).gate.n
    lines += [
        "",
        f"Judged on {samples} test samples; it holds for data like these.",
        "",
        f"- Source model: `{manifest.lineage.source_digest}`",
        f"- Calibration data: `{manifest.lineage.calibration_digest}`",
        f"- Test data: `{manifest.lineage.test_digest}`",
        "",
    ]
    return "\n".join(lines)


def _shape(spec: TensorSpec) -> str:
    return " x ".join("n" if size is None else str(size) for size in spec.shape)
