"""The thread beside the loop that copies, hashes and removes files, one piece after the other."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from edge_agent.update.events import Event

log = logging.getLogger("edge_agent")


class Worker:
    """Runs pieces of work in their order and posts what they return.

    The order matters: a cancelled staging ends before the next one touches the same slot.

    Args:
        post: puts an event into the loop's queue; called on the worker's thread.
    """

    def __init__(self, post: Callable[[Event], None]) -> None:
        self._post = post
        self._work: queue.Queue[Callable[[], Event | None] | None] = queue.Queue()
        self._thread = threading.Thread(target=self._run, name="update-worker", daemon=True)
        self._thread.start()

    def start(self, work: Callable[[], Event | None]) -> None:
        """Queue one piece of work; it handles its own errors."""
        self._work.put(work)

    def stop(self, timeout_s: float = 10.0) -> None:
        """Finish what is queued and end. What a stop cuts short is done again after the start."""
        self._work.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            try:
                event = work()
            except Exception:
                # The thread's outermost edge: what one piece of work did not foresee must not end
                # every later one. Its stage ends at its deadline.
                log.exception("a piece of the update failed")
                continue
            if event is not None:
                self._post(event)
