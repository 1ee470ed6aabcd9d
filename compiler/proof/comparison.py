"""Two builds beside each other: digests, sizes, what was proven, layers, and answers.

A side is a bundle or a build's ``report.json``. Weights and answers need bundles on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from compiler.bundle.facts import bundle_path, opened_bundle, read_evidence, read_manifest
from compiler.errors import CompileError
from compiler.graph.describe import weights_in
from compiler.graph.facts import Weight
from compiler.proof.evaluate import snr_db
from edge_contract.codec import decode_json
from edge_contract.errors import ContractError, ExitCode
from edge_contract.golden import decode_golden
from edge_contract.layout import BundleDir
from edge_contract.model import Lineage, ModelManifest
from edge_runtime.classes import ClassScores
from edge_runtime.errors import InputRefusedError
from edge_runtime.golden import from_tensor
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession

FIGURES = (
    ("accuracy", ("int8", "accuracy")),
    ("float accuracy", ("float", "accuracy")),
    ("agreement with float", ("agreement",)),
    ("drop at most, pp", ("drop_upper_pp",)),
    ("mAP", ("int8", "map")),
    ("float mAP", ("float", "map")),
    ("mean absolute error", ("int8", "mae")),
    ("float mean absolute error", ("float", "mae")),
    ("cosine at least", ("cosine_lower",)),
    ("MACs in int8", ("int8_ops", "macs_share")),
    ("bytes", ("bytes", "int8")),
    ("test samples", ("n",)),
)
"""What a build proved of a target, and where it stands in its evidence."""

REPORT_LIMIT_BYTES = 64 << 20


class Report(msgspec.Struct, frozen=True):
    """What is read of ``report.json``."""

    name: str
    version: str
    targets: dict[str, dict[str, Any]]
    lineage: Lineage
    bundle_digest: str | None = None


@dataclass(frozen=True)
class Side:
    """One of the two.

    evidence: by target. bundle, manifest: ``None`` for a report.
    """

    name: str
    version: str
    digest: str | None
    evidence: dict[str, dict[str, Any]]
    lineage: Lineage
    bundle: BundleDir | None = None
    manifest: ModelManifest | None = None


class LayerDifference(msgspec.Struct, frozen=True):
    """One layer's constants in A and B, found by the layer's name.

    changed_share: of the stored values that differ, 0..1; ``None`` where the shapes or dtypes do.
    scale_ratio_max: the largest factor between two scales of one channel, at least 1; ``None``
        where one side has no scales.
    """

    layer: str
    a: str
    b: str
    changed_share: float | None
    scale_ratio_max: float | None


class Answers(msgspec.Struct, frozen=True):
    """Both models' answers to A's golden frames, run here and now.

    agreement: share of frames given the same class, 0..1; ``None`` for models that name none.
    """

    frames: int
    agreement: float | None
    snr_db: float
    difference_max: float


class TargetDifference(msgspec.Struct, frozen=True):
    """One target that both sides have. ``figures``: name -> [A, B]."""

    target: str
    scheme: list[str]
    verdict: list[str]
    figures: dict[str, list[float | None]]
    layers: list[LayerDifference]
    answers: Answers | None


class Difference(msgspec.Struct, frozen=True):
    """A and B.

    lineage: what of it differs, name -> [A, B].
    only_a, only_b: targets that one side alone has.
    notes: what could not be compared, and why.
    """

    identical: bool
    name: list[str]
    version: list[str]
    digest: list[str | None]
    lineage: dict[str, list[str | None]]
    only_a: list[str]
    only_b: list[str]
    targets: list[TargetDifference]
    notes: list[str]


@contextmanager
def opened_side(path: Path) -> Iterator[Side]:
    """A bundle (directory, tar, or a build's directory) or a ``report.json``.

    Raises:
        CompileError: neither.
        TrustError: a bundle that was damaged.
    """
    place = bundle_path(path)
    if place is None:
        yield _read_report(path)
        return
    with opened_bundle(place) as bundle:
        manifest = read_manifest(bundle)
        yield Side(
            manifest.name,
            manifest.version,
            bundle.digest,
            read_evidence(bundle),
            manifest.lineage,
            bundle,
            manifest,
        )


def compare_sides(a: Side, b: Side) -> Difference:
    """Everything that differs between two builds, and the figures of both."""
    targets_a, targets_b = _targets(a), _targets(b)
    notes: list[str] = []
    shared = [target for target in targets_a if target in targets_b]
    if a.bundle is None or b.bundle is None:
        notes.append("layers and answers are compared between two bundles only")
    return Difference(
        identical=a.digest is not None and a.digest == b.digest,
        name=[a.name, b.name],
        version=[a.version, b.version],
        digest=[a.digest, b.digest],
        lineage=_lineage(a.lineage, b.lineage),
        only_a=[target for target in targets_a if target not in targets_b],
        only_b=[target for target in targets_b if target not in targets_a],
        targets=[_target(target, a, b, notes) for target in shared],
        notes=notes,
    )


def _read_report(path: Path) -> Side:
    place = path / "report.json" if path.is_dir() else path
    try:
        with place.open("rb") as file:
            data = file.read(REPORT_LIMIT_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CompileError(
            f"no bundle and no report.json at {path}",
            hint="give a bundle, or the --out directory of a build",
            exit_code=ExitCode.NOT_FOUND,
        ) from error
    except OSError as error:
        raise CompileError(f"cannot read {place}: {error.strerror}") from error
    try:
        report = decode_json(data, Report, what=str(place), limit_bytes=REPORT_LIMIT_BYTES)
    except ContractError as error:
        raise CompileError(
            f"{place} is neither a bundle nor the report.json of a build: {error.message}",
            hint="give a bundle, or the --out directory of a build",
        ) from error
    return Side(report.name, report.version, report.bundle_digest, report.targets, report.lineage)


def _targets(side: Side) -> list[str]:
    if side.manifest is not None:
        return [variant.target for variant in side.manifest.variants]
    return list(side.evidence)


def _lineage(a: Lineage, b: Lineage) -> dict[str, list[str | None]]:
    flat: list[dict[str, str]] = []
    for lineage in (a, b):
        flat.append(
            {
                "source": lineage.source_digest,
                "calibration": lineage.calibration_digest,
                "test": lineage.test_digest,
                **{f"tool {name}": text for name, text in lineage.tools.items()},
                **{f"option {name}": text for name, text in lineage.options.items()},
            }
        )
    first, second = flat
    names = sorted({*first, *second})
    return {
        name: [first.get(name), second.get(name)]
        for name in names
        if first.get(name) != second.get(name)
    }


def _target(target: str, a: Side, b: Side, notes: list[str]) -> TargetDifference:
    proven = [side.evidence.get(target, {}) for side in (a, b)]
    layers: list[LayerDifference] = []
    answers = None
    if a.bundle is not None and b.bundle is not None:
        layers = _layers(target, a, b)
        try:
            answers = _answers(target, a, b)
        except InputRefusedError as error:
            notes.append(f"{target}: B refuses A's frames: {error.message}")
    return TargetDifference(
        target=target,
        scheme=[str(one.get("scheme", "")) for one in proven],
        verdict=[str(one.get("verdict", "")) for one in proven],
        figures={name: [_figure(one, keys) for one in proven] for name, keys in FIGURES},
        layers=layers,
        answers=answers,
    )


def _figure(evidence: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    found: Any = evidence
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, (int, float)) else None


def _layers(target: str, a: Side, b: Side) -> list[LayerDifference]:
    first, second = (weights_in(*_variant(target, side)) for side in (a, b))
    return compare_layers(first, second)


def compare_layers(a: dict[str, Weight], b: dict[str, Weight]) -> list[LayerDifference]:
    """Every layer of two models, found by its name, in A's order; those of B alone come last."""
    return [
        _layer(name, a.get(name), b.get(name))
        for name in [*a, *(name for name in b if name not in a)]
    ]


def _layer(name: str, a: Weight | None, b: Weight | None) -> LayerDifference:
    changed = ratio = None
    if a is not None and b is not None:
        if a.values.shape == b.values.shape and a.values.dtype == b.values.dtype:
            changed = float((a.values != b.values).mean())
        ratio = _scale_ratio(a, b)
    return LayerDifference(name, _kind(a), _kind(b), changed, ratio)


def _kind(weight: Weight | None) -> str:
    if weight is None:
        return "-"
    return f"{weight.values.dtype} {'x'.join(map(str, weight.values.shape))}"


def _scale_ratio(a: Weight, b: Weight) -> float | None:
    if a.scales is None or b.scales is None or a.scales.shape != b.scales.shape:
        return None
    first, second = a.scales.astype(np.float64), b.scales.astype(np.float64)
    if not ((first > 0).all() and (second > 0).all()):
        return None
    return float(np.exp(np.abs(np.log(first) - np.log(second)).max()))


def _answers(target: str, a: Side, b: Side) -> Answers | None:
    """Run both on A's golden frames; ``None`` where they have other numbers of classes."""
    assert a.bundle is not None
    assert a.manifest is not None
    golden_file = a.manifest.variant_for(target).golden
    golden = decode_golden(a.bundle.read_file(golden_file), where=golden_file)
    frames = from_tensor(golden.frames)
    scores = []
    for side in (a, b):
        assert side.manifest is not None
        _, data = _variant(target, side)
        session = ModelSession(data, side.manifest, side.manifest.variant_for(target))
        scores.append(session.scores(frames))
    first, second = scores
    if first.shape != second.shape:
        return None
    return Answers(
        frames=len(frames),
        agreement=_agreement(a.manifest, first, second),
        snr_db=snr_db(first, second),
        difference_max=float(np.abs(first - second).max()),
    )


def _agreement(manifest: ModelManifest, first: FloatArray, second: FloatArray) -> float | None:
    if manifest.task != "classification":
        return None
    classes = ClassScores(manifest)
    same = classes.of(first).argmax(axis=1) == classes.of(second).argmax(axis=1)
    return float(same.mean())


def _variant(target: str, side: Side) -> tuple[str, bytes]:
    assert side.bundle is not None
    assert side.manifest is not None
    file = side.manifest.variant_for(target).file
    return file, side.bundle.read_file(file)
