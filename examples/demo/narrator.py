"""Tells the demo on the terminal: acts, lines, and what it waits for."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.markup import escape


class Narrator:
    """Writes to stderr, plain where that is no terminal."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._begin_s = time.monotonic()
        self._number = 0

    def act(self, title: str) -> None:
        """A new act begins."""
        self._number += 1
        self._console.print(f"\n[bold]{self._clock()}  {self._number}. {escape(title)}[/bold]")

    def line(self, text: str) -> None:
        """Something that happened."""
        self._console.print(f"         {escape(text)}")

    @contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Show for what the demo waits; a line where there is no terminal."""
        if not sys.stderr.isatty():
            self.line(f"… {what}")
            yield
            return
        with self._console.status(f"{escape(what)}"):
            yield

    def _clock(self) -> str:
        elapsed_s = int(time.monotonic() - self._begin_s)
        return f"{elapsed_s // 60}:{elapsed_s % 60:02d}"
