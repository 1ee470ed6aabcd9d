"""One more thing that a report says: a key of ``report.json``, a part of the page, terminal lines.

Whoever adds something to the report makes a ``Section`` and puts it into ``TargetReport.sections``
or ``BuildReport.sections``; nothing else has to know of it. A plain table needs no template::

    Section(
        key="pruning",
        title="Pruning",
        note="Channels removed, group by group.",
        data={"macs_share": 0.81},
        columns=("group", "before", "after"),
        rows=(("Conv_3", "64", "48"),),
        lines=("pruned    19 % of the MACs",),
        proven=True,
    )
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Place = Literal["cost", "answers", "layers", "more"]


@dataclass(frozen=True)
class Section:
    """A part of the report.

    key: in ``report.json``, unique among a target's keys.
    title, note: heading, and a sentence under it. No note where it is empty.
    data: JSON, under ``key``.
    columns, rows: a table; the first column is text, the others are figures.
    template: in ``templates/sections/``, for more than a table; it sees the section as
        ``section`` and what it belongs to as ``where``, and draws ``view``.
    place: where on a target's page: beside size and latency, beside the answers, beside the
        layers, or at the end.
    lines: for the terminal summary.
    proven: it follows from inputs, tools and options alone, so it enters ``evidence.json``, too.
        Nothing that holds a time, a path, a machine or a sample may.
    """

    key: str
    title: str
    data: Any
    note: str = ""
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()
    template: str = "table.html"
    view: Mapping[str, Any] = field(default_factory=dict)
    place: Place = "more"
    lines: tuple[str, ...] = ()
    proven: bool = False
