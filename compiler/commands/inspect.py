"""``edge-compile inspect``: what is in a model file or a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compiler.commands.terminal import emit, json_option, table
from edge_contract.errors import ExitCode

if TYPE_CHECKING:
    from compiler.bundle.facts import BundleFacts
    from compiler.graph.facts import ModelFacts


@click.command()
@click.argument("path", metavar="MODEL_OR_BUNDLE", type=click.Path(path_type=Path))
@json_option
def inspect(path: Path, as_json: bool) -> int:
    """Show inputs, outputs, operators, MACs, sizes, variants and digests of MODEL_OR_BUNDLE.

    A bundle is a directory, the same in one tar, or the --out directory of a build; its blobs are
    checked against their digests (exit code 4 where one differs).
    """
    import msgspec

    from compiler.bundle.facts import bundle_path, facts_of_bundle, opened_bundle
    from compiler.graph.describe import read_facts

    place = bundle_path(path)
    if place is None:
        model = read_facts(path)
        emit({"kind": "model", **msgspec.to_builtins(model)}, _model(model), as_json=as_json)
        return ExitCode.OK
    with opened_bundle(place) as opened:
        bundle = facts_of_bundle(opened)
    emit({"kind": "bundle", **msgspec.to_builtins(bundle)}, _bundle(bundle), as_json=as_json)
    return ExitCode.OK


def _model(facts: ModelFacts) -> list[str]:
    from compiler.graph.uncounted import shortened

    stored = ", ".join(f"{size:,} {dtype}" for dtype, size in facts.stored_bytes.items())
    lines = [
        f"digest      {facts.digest}",
        f"size        {facts.size_bytes:,} bytes ({stored or 'no constants'})",
        f"opset       {facts.opset or 'none'}, {facts.producer or 'producer not named'}",
        *(f"input       {t.name}: {t.dtype} {_shape(t.shape)}" for t in facts.inputs),
        *(f"output      {t.name}: {t.dtype} {_shape(t.shape)}" for t in facts.outputs),
        f"parameters  {facts.parameters_count:,}",
        f"MACs        {_count(facts.macs)} for one frame",
        *([f"not counted {shortened(facts.not_counted)}"] if facts.not_counted else []),
        f"operators   {', '.join(f'{n} {op}' for op, n in facts.ops.items())}",
    ]
    rows = [
        (
            layer.name,
            layer.op,
            f"{layer.weight_dtype} {_shape(layer.weight_shape)}",
            _count(layer.macs),
        )
        for layer in facts.layers
    ]
    return [*lines, "", *table(("layer", "op", "weight", "MACs"), rows)] if rows else lines


def _bundle(facts: BundleFacts) -> list[str]:
    lines = [
        f"{facts.name} {facts.version}, {facts.task} of {len(facts.labels)} classes",
        f"digest      {facts.digest}",
        f"size        {facts.size_bytes:,} bytes",
        *(f"input       {t.name}: {t.dtype} {_shape(t.shape)}" for t in facts.inputs),
        *(f"output      {t.name}: {t.dtype} {_shape(t.shape)}" for t in facts.outputs),
        f"source      {facts.lineage.source_digest}",
        f"calibration {facts.lineage.calibration_digest}",
        f"test        {facts.lineage.test_digest}",
        f"tools       {', '.join(f'{k} {v}' for k, v in sorted(facts.lineage.tools.items()))}",
        "",
    ]
    rows = [
        (
            v.target,
            v.runtime,
            v.scheme,
            f"{v.model.size_bytes:,}",
            _count(v.model.macs),
            _share(v.evidence.get("int8_ops", {}).get("macs_share")),
            _share(v.evidence.get("int8", {}).get("accuracy")),
            _share(v.evidence.get("agreement")),
            str(v.evidence.get("verdict", "-")),
        )
        for v in facts.variants
    ]
    head = ("target", "runtime", "scheme", "bytes", "MACs", "int8", "accuracy", "agree", "gate")
    files = [(f.path, f"{f.size_bytes:,}", f.digest) for f in facts.files]
    return [*lines, *table(head, rows), "", *table(("file", "bytes", "digest"), files)]


def _shape(axes: Sequence[Any]) -> str:
    return " x ".join("?" if axis is None else str(axis) for axis in axes) or "scalar"


def _count(value: int | None) -> str:
    return "not known" if value is None else f"{value:,}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"
