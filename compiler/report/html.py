"""``report.html``: one file that needs nothing else, in light and dark."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import jinja2
from markupsafe import Markup

from compiler.plan.diagnose import LayerFidelity
from compiler.report.build import BuildReport
from compiler.report.names import short_name
from compiler.report.target import TargetReport


def render_html(report: BuildReport) -> bytes:
    """The page. No script, no request; styles and pictures are in it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("compiler.report", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    css = resources.files("compiler.report").joinpath("templates/report.css").read_text("utf-8")
    environment.globals |= {"noise_shares": noise_shares, "short_name": short_name}
    template = environment.get_template("report.html")
    return template.render(
        report=report,
        scale=interval_scale(report.targets),
        css=Markup(css),
        css_hash=base64.b64encode(hashlib.sha256(css.encode()).digest()).decode(),
    ).encode()


def noise_shares(ranking: Sequence[tuple[str, LayerFidelity]]) -> list[float]:
    """Each layer's part of the layers' summed noise power, 0..1, in the order of ``ranking``."""
    noise = [10 ** (-layer.alone_snr_db / 10) for _, layer in ranking]
    return [one / sum(noise) for one in noise]


def interval_scale(targets: tuple[TargetReport, ...]) -> dict[str, Any]:
    """Where the chart of the judged figure begins and ends, in its unit."""
    values = []
    for target in targets:
        one = target.gate.interval
        values += [one.lower, one.upper, one.seen, one.limit]
        if not one.at_least:
            values.append(0.0)
    known = [value for value in values if math.isfinite(value)]
    low, high = min(known), max(known)
    room = 0.08 * ((high - low) or 1.0)
    return {"low": low - room, "high": high + room, "span": (high - low) + 2 * room}
