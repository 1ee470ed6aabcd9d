"""Published versions, and what runs where."""

from __future__ import annotations

from itertools import groupby

from fleet.console import words
from fleet.console.page import Page, Place
from fleet.service import FleetService


def models_page(service: FleetService, place: Place) -> Page:
    """``/models``."""
    versions = service.versions()
    lines = {line: list(items) for line, items in groupby(versions, key=lambda item: item.line)}
    return Page(
        template="models.html",
        title="Models",
        section="models",
        says=f"{words.count(len(versions), 'published version')}.",
        values={
            "now": service.health().now_s,
            "lines": lines,
            "devices_count": len(service.devices()),
        },
    )
