"""The steps of a long command on the terminal: each as it comes, and a sign of life in between."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

EVERY_S = 5.0
"""How long nothing is said at most: a trial of minutes must not look like a hang."""


class Steps:
    """Shows steps; use it as a context, and call it with each.

    Args:
        show: prints one line.
        every_s: the longest silence, in seconds.
    """

    def __init__(self, show: Callable[[str], None], *, every_s: float = EVERY_S) -> None:
        self._show = show
        self._every_s = every_s
        self._step = ""
        self._news = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._remind, name="steps", daemon=True)

    def __call__(self, step: str) -> None:
        """Show the step that begins."""
        with self._news:
            self._step = step
            self._show(step)
            self._news.notify()

    def __enter__(self) -> Steps:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._news:
            self._ended = True
            self._news.notify()
        self._thread.join()

    def _remind(self) -> None:
        silent_s = 0.0
        with self._news:
            while not self._ended:
                if self._news.wait(self._every_s):
                    silent_s = 0.0
                    continue
                silent_s += self._every_s
                self._show(f"  {silent_s:g} s since: {self._step or 'began'}")
