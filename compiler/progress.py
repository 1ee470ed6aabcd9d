"""Progress on stderr: a line a stage, plain where it is no terminal."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import TextIO

Progress = Callable[[str], None]
"""Called with one short line at the beginning of each stage."""


def silent(line: str) -> None:
    """Says nothing."""


def to_stream(stream: TextIO | None = None) -> Progress:
    """Progress to ``stream`` (stderr): with rich on a terminal, else plain lines."""
    target = stream or sys.stderr
    if target.isatty() and not os.environ.get("NO_COLOR"):
        # Imported here: rich costs more start-up time than the rest of the command line.
        from rich.console import Console

        console = Console(file=target, highlight=False)
        return lambda line: console.print(f"[dim]•[/dim] {line}", markup=True)

    def plain(line: str) -> None:
        print(line, file=target, flush=True)

    return plain
