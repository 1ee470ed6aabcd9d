"""Which records are stored: the rule that makes "at least once" on the wire "once" in the store.

A record covers the closed range ``seq_first`` to ``seq`` of its stream (device, boot, class).
Nothing of it stored: store it. All of it stored: it is a repeat, count it and acknowledge it
again. Some of it stored: storing it would count something twice, so refuse it and count that.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterable

from sqlalchemy import Connection

from edge_contract.intervals import IntervalSet, Overlap
from fleet.store import records
from fleet.store.records import Stream
from fleet.telemetry.record import Record

_CACHED_STREAMS = 50_000
"""Interval sets kept in memory: two integers each where nothing is missing."""


class Ledger:
    """The committed ranges, cached between transactions. One owner; no locking."""

    def __init__(self) -> None:
        self._cache: OrderedDict[Stream, IntervalSet] = OrderedDict()

    def open(self, tx: Connection, now_s: float) -> LedgerPage:
        """Begin to take records in within the transaction ``tx``."""
        return LedgerPage(self, tx, now_s)

    def _look_up(self, tx: Connection, stream: Stream) -> IntervalSet | None:
        found = self._cache.get(stream)
        if found is not None:
            self._cache.move_to_end(stream)
            return found
        return records.committed_ranges(tx, stream)

    def _remember(self, ranges: dict[Stream, IntervalSet]) -> None:
        for stream, value in ranges.items():
            self._cache[stream] = value
            self._cache.move_to_end(stream)
        while len(self._cache) > _CACHED_STREAMS:
            self._cache.popitem(last=False)


class LedgerPage:
    """The ledger within one transaction: nothing is remembered before ``committed`` is called."""

    def __init__(self, ledger: Ledger, tx: Connection, now_s: float) -> None:
        self._ledger = ledger
        self._tx = tx
        self._now_s = now_s
        self._ranges: dict[Stream, IntervalSet] = {}
        self._fresh: set[Stream] = set()
        self._new: list[Record] = []
        self._repeats: Counter[tuple[str, str]] = Counter()
        self._acks: dict[Stream, IntervalSet] = {}

    def take_in(self, record: Record) -> Overlap:
        """Sort one record: ``DISJOINT`` is stored, ``CONTAINED`` a repeat, ``PARTIAL`` refused."""
        stream, first, last = record.stream, record.row.seq_first, record.row.seq
        ranges = self._ranges.get(stream)
        if ranges is None:
            known = self._ledger._look_up(self._tx, stream)
            if known is None:
                self._fresh.add(stream)
            ranges = self._ranges[stream] = known.copy() if known is not None else IntervalSet()
        overlap = ranges.classify(first, last)
        if overlap is Overlap.DISJOINT:
            ranges.add(first, last)
            self._new.append(record)
        elif overlap is Overlap.CONTAINED:
            self._repeats[stream.device, stream.cls] += 1
        if overlap is not Overlap.PARTIAL:
            self._acks.setdefault(stream, IntervalSet()).add(first, last)
        return overlap

    def write(self) -> None:
        """Write everything that was taken in into the transaction."""
        records.add_records(self._tx, (record.row for record in self._new))
        for stream in {record.stream for record in self._new}:
            records.save_ranges(self._tx, stream, self._ranges[stream], new=stream in self._fresh)
        for (device, cls), copies in self._repeats.items():
            records.count_duplicates(self._tx, device, cls, copies, self._now_s)

    def committed(self) -> dict[Stream, list[tuple[int, int]]]:
        """Call once the transaction is committed; returns what may now be acknowledged."""
        stored = {record.stream for record in self._new}
        self._ledger._remember(
            {s: r for s, r in self._ranges.items() if s in stored or s not in self._fresh}
        )
        return {stream: list(ranges) for stream, ranges in self._acks.items()}

    @property
    def new(self) -> Iterable[Record]:
        """Records that were stored in this transaction, in the order in which they came."""
        return tuple(self._new)
