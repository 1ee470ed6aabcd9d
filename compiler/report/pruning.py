"""The part of the report that says what pruning did."""

from __future__ import annotations

from compiler.prune.prune import GroupReport
from compiler.prune.report import PruningReport
from compiler.report.section import Section


def pruning_section(report: PruningReport | None) -> tuple[Section, ...]:
    """One section; none where pruning was not asked for."""
    if report is None:
        return ()
    ask = report.ask
    note = (
        f"{report.sentence()}. Asked: --prune {ask.words}, --sparsity {ask.sparsity}. Before int8,"
        " without retraining; the gate compares with the model that was not pruned."
    )
    if ask.channels:
        note += f" Kept counts are multiples of {report.step}."
    return (
        Section(
            key="pruning",
            title="Pruning",
            note=note,
            data=report.findings(),
            columns=("made by", "channels", "kept", "error"),
            rows=tuple(
                (
                    ", ".join(group.producers)[:90],
                    str(group.channels_before),
                    str(group.channels_after),
                    _error(group),
                )
                for group in report.groups
            ),
            lines=(f"pruned: {report.sentence()}",),
        ),
    )


def _error(group: GroupReport) -> str:
    if group.frozen:
        return group.frozen[:90]
    return f"{group.error:.2%}" if group.channels_after < group.channels_before else "none"
