"""The one queue that the manager's loop reads: messages of the broker, and work of other threads.

Whoever posts work waits for what it returns, on a thread that is not the loop's.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError

from edge_contract.errors import WherryError
from fleet.errors import FleetError
from fleet.manager.facts import Facts

_BATCH = 500

T = TypeVar("T")


class Command:
    """Work of another thread, to be run on the loop's."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._work = work
        self.done: Future[Any] = Future()

    def run(self, facts: Facts) -> None:
        """Run it, unless whoever asked has given up. What a user can mend is told to that one only.

        Raises:
            BaseException: whatever nobody foresaw; the loop ends with it.
        """
        if not self.done.set_running_or_notify_cancel():
            return
        try:
            self.done.set_result(self._work())
        except WherryError as error:
            self.done.set_exception(error)
        except OperationalError as error:
            facts.store_refuses(error)
            self.done.set_exception(FleetError(facts.problem, hint="edge-fleet doctor"))
        except BaseException as error:
            self.done.set_exception(FleetError(f"the manager failed: {error!r}"))
            raise

    def refuse(self) -> None:
        """Tell whoever waits that it will not be run."""
        if self.done.set_running_or_notify_cancel():
            self.done.set_exception(FleetError("the manager is stopping"))


class Inbox:
    """Any thread puts, the loop takes.

    Args:
        facts: why the loop may be slow to answer.
    """

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._queue: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._over = False

    def __len__(self) -> int:
        return self._queue.qsize()

    def put(self, item: Any) -> None:
        """Post what came from the broker, or None to wake the loop."""
        self._queue.put(item)

    def do(self, work: Callable[[], T], *, timeout_s: float) -> T:
        """Have ``work`` run on the loop's thread; return what it returns or raise what it raises.

        Raises:
            FleetError: the loop has ended, or is too busy to answer in time.
        """
        command = Command(work)
        self._queue.put(command)
        if self._over:
            self._refuse_waiting()
        try:
            result: T = command.done.result(timeout_s)
        except FutureTimeoutError as error:
            # Whoever is told that it failed must not find it done an hour later.
            never = command.done.cancel()
            raise FleetError(
                f"the manager did not get to it within {timeout_s:g} s"
                f" ({self._facts.problem or 'it is busy'}); "
                + ("it will not be done" if never else "it is under way and may still be done"),
                hint="edge-fleet doctor",
            ) from error
        return result

    def take(self, timeout_s: float) -> list[Any]:
        """What waits, the oldest first; waits for the first item up to ``timeout_s``."""
        items: list[Any] = []
        try:
            items.append(self._queue.get(timeout=timeout_s))
            while len(items) < _BATCH:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def refuse_all(self) -> None:
        """The loop has ended: nobody shall wait for it, whoever comes later neither."""
        self._over = True
        self._refuse_waiting()

    def _refuse_waiting(self) -> None:
        while items := self.take(0.0):
            for item in items:
                if isinstance(item, Command):
                    item.refuse()
