"""``edge-compile compare``: two builds beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from compiler.commands.places import BuiltPath
from compiler.commands.terminal import emit, json_option, table
from edge_contract.errors import ExitCode

if TYPE_CHECKING:
    from compiler.proof.comparison import Difference, LayerDifference, TargetDifference

_PATH = BuiltPath(
    "a bundle, the --out directory of a build, or its report.json",
    "edge-compile build {model} --out DIR, then compare DIR with another build;"
    " edge-compile inspect {model} shows the model",
)


@click.command()
@click.argument("a", metavar="A", type=_PATH)
@click.argument("b", metavar="B", type=_PATH)
@json_option
def compare(a: Path, b: Path, as_json: bool) -> int:
    """Compare two bundles, or the report.json of two builds.

    Shows what differs in digests, inputs, tools and options, the figures that both builds proved,
    and, of two bundles, each layer's weights and the answers to A's golden frames. Exits with 0
    whether they differ or not; JSON says "identical".
    """
    import msgspec

    from compiler.proof.comparison import compare_sides, opened_side

    with opened_side(a) as first, opened_side(b) as second:
        found = compare_sides(first, second)
    emit(msgspec.to_builtins(found), _lines(found), as_json=as_json)
    return ExitCode.OK


def _lines(found: Difference) -> list[str]:
    rows = [
        ("model", f"{found.name[0]} {found.version[0]}", f"{found.name[1]} {found.version[1]}"),
        ("digest", *(_short(digest) for digest in found.digest)),
        *((name, _short(a), _short(b)) for name, (a, b) in found.lineage.items()),
    ]
    lines = table(("", "A", "B"), rows)
    lines.append("the bundles are identical" if found.identical else "the bundles differ")
    lines += [f"only in A: {target}" for target in found.only_a]
    lines += [f"only in B: {target}" for target in found.only_b]
    for target in found.targets:
        lines += ["", *_target(target)]
    return [*lines, *(f"note: {note}" for note in found.notes)]


def _target(target: TargetDifference) -> list[str]:
    rows = [("scheme", *target.scheme, ""), ("gate", *target.verdict, "")]
    for name, (a, b) in target.figures.items():
        change = "" if a is None or b is None else f"{b - a:+.6g}"
        rows.append((name, _number(a), _number(b), change))
    lines = table((target.target, "A", "B", "B - A"), rows)
    if target.answers is not None:
        answers = target.answers
        lines.append(
            f"answers to {answers.frames} golden frames of A: {_share(answers.agreement)} agree,"
            f" SNR {answers.snr_db:.1f} dB, largest difference {answers.difference_max:.3g}"
        )
    if target.layers:
        differing = [layer for layer in target.layers if not _same(layer)]
        lines.append(f"{len(target.layers) - len(differing)} of {len(target.layers)} layers equal")
        if differing:
            shown = [
                (
                    layer.layer,
                    layer.a,
                    layer.b,
                    "-" if layer.changed_share is None else f"{layer.changed_share:.2%}",
                    "-" if layer.scale_ratio_max is None else f"{layer.scale_ratio_max:.4g}",
                )
                for layer in differing
            ]
            lines += table(("layer", "A", "B", "values changed", "scales, up to"), shown)
    return lines


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.2%}"


def _same(layer: LayerDifference) -> bool:
    return layer.a == layer.b and layer.changed_share == 0 and layer.scale_ratio_max in (None, 1.0)


def _short(text: str | None) -> str:
    if text is None:
        return "none"
    return text[:19] if text.startswith("sha256:") else text


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.6g}"
