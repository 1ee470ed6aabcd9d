"""Records in memory, between ``append`` and the commit that makes them durable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edge_agent.telemetry.batch import Record
from edge_agent.telemetry.quota import CLASSES, furthest_over
from edge_contract.intervals import IntervalSet

PENDING_MAX_BYTES = 256 * 1024
"""Flushed unasked beyond these; bounds the memory, and the largest transaction."""

_RECORD_OVERHEAD_BYTES = 64
"""Counted with each payload, so that empty ones are bounded too."""


class Pending:
    """What waits for a flush, and the sequence numbers that had to go before they reached one."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """All of it is on disk now."""
        self.records: dict[str, list[Record]] = {cls: [] for cls in CLASSES}
        self.lost: dict[str, IntervalSet] = {cls: IntervalSet() for cls in CLASSES}
        self._used_bytes = dict.fromkeys(CLASSES, 0)

    def add(self, cls: str, seq: int, payload: bytes) -> None:
        """Take in one record."""
        self.records[cls].append(Record(seq, seq, payload))
        self._used_bytes[cls] += len(payload) + _RECORD_OVERHEAD_BYTES

    def has_room(self, payload: bytes) -> bool:
        """Whether ``payload`` fits without a flush."""
        used_bytes = sum(self._used_bytes.values())
        return used_bytes + len(payload) + _RECORD_OVERHEAD_BYTES <= PENDING_MAX_BYTES

    def shed(self, payload: bytes, shares: Mapping[str, float]) -> None:
        """Give up the oldest of the class furthest over its share until ``payload`` fits."""
        while not self.has_room(payload):
            cls = furthest_over(self._used_bytes, shares)[0]
            victim = self.records[cls].pop(0)
            self.lost[cls].add(victim.seq_first, victim.seq_last)
            self._used_bytes[cls] -= len(victim.payload) + _RECORD_OVERHEAD_BYTES

    def lost_ranges(self) -> Iterator[tuple[str, int, int]]:
        """(class, seq_first, seq_last) of what was shed and is not yet counted on disk."""
        for cls in CLASSES:
            for first, last in self.lost[cls]:
                yield cls, first, last

    def count(self) -> int:
        """Records that wait."""
        return sum(map(len, self.records.values()))

    def __bool__(self) -> bool:
        return any(self.records.values()) or any(self.lost.values())
