"""``report.html``: one file that needs nothing else, in light and dark."""

from __future__ import annotations

from typing import Any

import jinja2

from compiler.report.build import BuildReport
from compiler.report.target import TargetReport


def render_html(report: BuildReport) -> bytes:
    """The page. No script, no request; styles and pictures are in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("compiler", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.get_template("report.html")
    return template.render(report=report, scale=interval_scale(report.targets)).encode()


def interval_scale(targets: tuple[TargetReport, ...]) -> dict[str, Any]:
    """Where the drop chart of the report begins and ends, in percentage points."""
    values = [0.0]
    for target in targets:
        values += [target.gate.drop_lower_pp, target.gate.drop_upper_pp, target.gate.max_drop_pp]
    low, high = min(values), max(values)
    room = 0.08 * (high - low)
    return {"low": low - room, "span": (high - low) + 2 * room}
