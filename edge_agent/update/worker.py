"""The thread beside the loop that copies, hashes and removes files, one piece after the other."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable

from edge_agent.update.events import Event

log = logging.getLogger("edge_agent")

PIECE_MAX_S = 2 * 3600.0
"""Longer than any stage waits for it, and than gigabytes on a worn card take."""


class Worker:
    """Runs pieces of work in their order and posts what they return.

    The order matters: a cancelled staging ends before the next one touches the same slot.

    Args:
        post: puts an event into the loop's queue; called on the worker's thread.
        monotonic_s: seconds that never go back.
    """

    def __init__(
        self, post: Callable[[Event], None], monotonic_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._post = post
        self._monotonic_s = monotonic_s
        self._began_s: float | None = None
        self._looks = 0
        self._work: queue.Queue[Callable[[], Event | None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="update-worker", daemon=True)
        self._thread.start()

    def start(self, work: Callable[[], Event | None]) -> None:
        """Queue one piece of work; it handles its own errors."""
        self._work.put(work)

    @property
    def stuck(self) -> bool:
        """Whether one piece has lasted for longer than ``PIECE_MAX_S``: a model that hangs while it
        is loaded, a mount that never answers. No update, and no return, gets past it."""
        began_s = self._began_s
        return began_s is not None and self._monotonic_s() - began_s > PIECE_MAX_S

    @property
    def turns(self) -> int:
        """For the watchdog: another number with every look, unless the worker is stuck."""
        self._looks += not self.stuck
        return self._looks

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish what is queued and end. What a stop cuts short is done again after the start."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            self._began_s = self._monotonic_s()
            try:
                event = work()
            except Exception:
                # The thread's outermost edge: what one piece of work did not foresee must not end
                # every later one. Its stage ends at its deadline.
                log.exception("a piece of the update failed")
                continue
            finally:
                self._began_s = None
            if event is not None:
                self._post(event)
