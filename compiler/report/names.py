"""Layers' names as a reader can bear them."""

from __future__ import annotations

NAME_CHARS = 60


def short_name(name: str) -> str:
    """An exporter's name for reading: of names joined by ``;`` the first, of long ones the end."""
    first, *rest = name.split(";")
    shown = first if len(first) <= NAME_CHARS else f"…{first[1 - NAME_CHARS :]}"
    return f"{shown} (+{len(rest)})" if rest else shown
