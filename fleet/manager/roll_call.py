"""Who is still there after the manager's own connection was lost and came back.

A new connection says nothing about devices: the broker may have died with all their wills unsaid.
Those that were there before get some time to be heard of, live or by what is retained; the rest
count as offline. Nothing here knows a clock or a socket.
"""

from __future__ import annotations

from collections.abc import Iterable

GRACE_S = 75.0
"""Above the longest time that a device lets pass between two tries to connect
(``reconnect_max_s`` of the agent, 60 s by default)."""


class RollCall:
    """One call at a time; a lost connection ends it."""

    def __init__(self) -> None:
        self._expected: set[str] = set()
        self._heard: set[str] = set()
        self._due_s: float | None = None

    def begin(self, there_before: Iterable[str], now_s: float) -> None:
        """Expect these devices. Who was heard over this connection already, counts."""
        self._expected = set(there_before)
        self._due_s = now_s + GRACE_S

    def heard(self, names: Iterable[str]) -> None:
        """These devices are there."""
        self._heard.update(names)

    def lost(self) -> None:
        """The connection is gone; whatever was heard over it no longer counts."""
        self._heard.clear()
        self._due_s = None

    def missing(self, now_s: float) -> list[str]:
        """Once, when the time is over: who was expected and not heard."""
        if self._due_s is None or now_s < self._due_s:
            return []
        self._due_s = None
        return sorted(self._expected - self._heard)
