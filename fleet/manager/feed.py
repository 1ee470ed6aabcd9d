"""What changed, for pages that are open: a ring in memory that any thread can wait on."""

from __future__ import annotations

import secrets
import threading
from collections import deque

from fleet.views.manager import Change, Changes

_KEPT = 5000
_ANSWER_MAX = 500


class Feed:
    """Changes of this run. A cursor of another run, or one that is too old, is answered by
    ``reset``: the reader asks for everything again."""

    def __init__(self) -> None:
        self._run = secrets.token_hex(4)
        self._next = 1
        self._ring: deque[Change] = deque(maxlen=_KEPT)
        self._changed = threading.Condition()
        self._closed = False

    def put(self, at_s: float, kind: str, subject: str, text: str = "") -> None:
        """Add one change."""
        with self._changed:
            change = Change(id=self._next, at_s=at_s, kind=kind, subject=subject, text=text)
            self._ring.append(change)
            self._next += 1
            self._changed.notify_all()

    def since(self, cursor: str, wait_s: float) -> Changes:
        """Changes after ``cursor``; waits up to ``wait_s`` for the first one."""
        with self._changed:
            run, _, number = cursor.partition("-")
            oldest = self._ring[0].id if self._ring else self._next
            if run != self._run or not number.isdecimal() or int(number) + 1 < oldest:
                return Changes(cursor=self._cursor(), reset=bool(cursor), changes=[])
            after = int(number)
            self._changed.wait_for(lambda: self._next > after + 1 or self._closed, wait_s)
            found = [change for change in self._ring if change.id > after][:_ANSWER_MAX]
            last = found[-1].id if found else after
            return Changes(cursor=f"{self._run}-{last}", reset=False, changes=found)

    def close(self) -> None:
        """Wake everybody who waits: the manager stops."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def _cursor(self) -> str:
        return f"{self._run}-{self._next - 1}"
