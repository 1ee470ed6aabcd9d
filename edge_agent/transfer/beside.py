"""Slow work of a transfer, done beside the loop; what came of it is taken up on the loop.

Hashing two gigabytes on a slow card takes minutes, and the watchdog is fed by the loop's turns.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_agent.update.ports import Aside

Beside = Callable[[Callable[[], str], Callable[[str], None]], None]
"""``beside(work, then)``: ``work`` runs anywhere and returns why it failed, or "" where it did not;
``then`` hears that on the loop."""


class Worked(msgspec.Struct, frozen=True):
    """Slow work has ended. The loop calls ``go``, which takes up what came of it."""

    go: Callable[[], None]


def at_once(work: Callable[[], str], then: Callable[[str], None]) -> None:
    """A ``Beside`` for a process that has nothing else to do meanwhile."""
    then(work())


def on_worker(aside: Aside, post: Callable[[Worked], None]) -> Beside:
    """A ``Beside`` that works on the worker's thread, one piece after the other.

    Args:
        aside: the worker.
        post: puts ``Worked`` into the loop's queue.
    """

    def beside(work: Callable[[], str], then: Callable[[str], None]) -> None:
        def run() -> None:
            reason = "a piece of the transfer failed; look into the log"
            try:
                reason = work()
            finally:  # whatever happened: somebody waits for it
                post(Worked(lambda: then(reason)))

        aside.start(run)

    return beside
