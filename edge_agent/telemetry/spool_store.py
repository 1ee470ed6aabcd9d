"""The rows of the spool: batches in order, what is frozen, what was dropped.

A row's key is ``boot << 40 | seq_first`` (see ``position``), so each class's table is in order of
boot and sequence, needs no index, and "frozen" is one watermark a class: everything at or below it
may have been sent and never merges again.

Trims are not committed on their own: they ride with the next commit, and a power cut before it
costs a repeat, which the fleet's key makes harmless.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edge_agent.telemetry.batch import Batch, Record
from edge_agent.telemetry.errors import storage_errors
from edge_agent.telemetry.quota import CLASSES
from edge_agent.telemetry.spool_file import compact
from edge_contract.intervals import IntervalSet

SEQ_BITS = 40
SEQ_MAX = (1 << SEQ_BITS) - 1

TOMBSTONES_MAX = 256
"""Beyond these the oldest are forgotten one by one; the counters keep their numbers."""

RUN_MAX_ROWS = 64
RUN_MAX_BYTES = 64 * 1024
"""What one merge takes in at most: bounds its transaction."""


_TABLES = {cls: f"batch_{cls}" for cls in CLASSES}


class Boot(NamedTuple):
    """A boot of the device: its number here, its id as given, and as it stands in keys."""

    number: int
    given: str
    boot_id: str


class Row(NamedTuple):
    """A stored batch."""

    key: int
    seq_last: int
    body: bytes

    @property
    def seq_first(self) -> int:
        return self.key & SEQ_MAX

    @property
    def last_position(self) -> int:
        """Position of its last sequence number."""
        return self.key - self.seq_first + self.seq_last


class ClassState(NamedTuple):
    """What is known of a class without reading its rows. Sequence numbers count, not payloads,
    in ``dropped``; ``merged`` counts the payloads that vanished into neighbours."""

    boot: int
    next_seq: int
    frozen_key: int
    records: int
    body_bytes: int
    dropped: int
    merged: int


class DroppedRange(NamedTuple):
    """A tombstone: sequence numbers that were given up."""

    cls: str
    boot: int
    seq_first: int
    seq_last: int
    reason: str


def position(boot: int, seq: int) -> int:
    """Where a sequence number of a boot stands in the order of its class."""
    return boot << SEQ_BITS | seq


class SpoolStore:
    """Reads and writes rows in one open transaction at a time. Every method may raise
    ``StorageError``; after it, call ``rollback``."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._trimmed: list[tuple[str, int]] = []  # deleted in the open transaction
        self._partly: dict[tuple[str, int], IntervalSet] = {}  # acknowledged within a batch
        self.boots: dict[int, Boot] = {}
        self._read_boots()

    # Transactions

    @property
    def uncommitted_trims(self) -> int:
        """Rows whose trimming awaits a commit."""
        return len(self._trimmed)

    def commit(self) -> None:
        """Make everything since the last commit durable."""
        if self._connection.in_transaction:
            with storage_errors("committing to the spool"):
                self._connection.execute("COMMIT")
        self._trimmed.clear()
        if self._boots_changed:
            self._read_boots()

    def rollback(self) -> None:
        """Undo everything since the last commit but trims, which wait on for the next."""
        with storage_errors("rolling the spool back"):
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        self._boots_changed = False
        trimmed, self._trimmed = self._trimmed, []
        for cls, key in trimmed:
            self._trim_row(cls, key)

    def compact(self, path: Path) -> None:
        """Give free pages back to the file system, and close."""
        self.commit()
        compact(self._connection, path)

    def close(self) -> None:
        """Close the file; what is not committed is lost."""
        with storage_errors("closing the spool"):
            self._connection.close()

    # Boots and sequences

    def add_boot(self, boot: Boot) -> None:
        """Remember a boot; forget those of which nothing is left."""
        if boot.number in self.boots:
            return
        for old in self.boots:
            if not self._boot_is_used(old):
                self._write("DELETE FROM boot WHERE boot=?", (old,))
        self._write("INSERT INTO boot VALUES (?, ?, ?)", boot)
        self._boots_changed = True

    def set_next_seq(self, cls: str, boot: int, next_seq: int) -> None:
        """Never give out a sequence number below ``next_seq`` in this boot again."""
        self._write(
            "UPDATE class_state SET boot=?, next_seq=? WHERE cls=? AND (boot<>? OR next_seq<>?)",
            (boot, next_seq, cls, boot, next_seq),
        )

    def state(self, cls: str) -> ClassState:
        """The class's counters and watermarks."""
        (row,) = self._all(
            "SELECT boot, next_seq, frozen_key, records, body_bytes, dropped, merged"
            " FROM class_state WHERE cls=?",
            (cls,),
        )
        return ClassState(*row)

    # Batches

    def insert(self, cls: str, boot: int, batches: Sequence[Batch]) -> None:
        """Add batches of one boot."""
        for batch in batches:
            self._write(
                _sql("INSERT INTO {batch} VALUES (?, ?, ?, ?)", cls),
                (position(boot, batch.seq_first), batch.seq_last, batch.records, batch.body),
            )
        self._count(cls, sum(b.records for b in batches), sum(len(b.body) for b in batches))

    def next_row(self, cls: str, after: int) -> Row | None:
        """The first row that holds a position above ``after``."""
        rows = self._all(
            _sql(
                "SELECT key, seq_last, body FROM {batch} WHERE key >="
                " coalesce((SELECT max(key) FROM {batch} WHERE key<=?), 0)"
                " ORDER BY key LIMIT 2",
                cls,
            ),
            (after,),
        )
        return next((row for row in map(Row._make, rows) if row.last_position > after), None)

    def unacknowledged(self, cls: str, row: Row, records: Iterable[Record]) -> list[Record]:
        """Those of a row's records that no acknowledgement has covered."""
        partly = self._partly.get((cls, row.key))
        if partly is None:
            return list(records)
        return [r for r in records if not partly.covers(r.seq_first, r.seq_last)]

    def freeze(self, cls: str, key: int) -> None:
        """Rows up to ``key`` never merge again; durable on return."""
        if key > self.state(cls).frozen_key:
            self._write("UPDATE class_state SET frozen_key=? WHERE cls=?", (key, cls))
            self.commit()

    def trim(self, cls: str, boot: int, seq_first: int, seq_last: int) -> int:
        """Delete what an acknowledged range covers; only of frozen rows, the rest was never sent.

        Returns:
            How many rows went.
        """
        seq_first, seq_last = max(seq_first, 0), min(seq_last, SEQ_MAX)
        if seq_first > seq_last:
            return 0
        low, high = position(boot, seq_first), position(boot, seq_last)
        rows = self._all(
            _sql(
                "SELECT key, seq_last FROM {batch} WHERE key <= ? AND key >="
                " coalesce((SELECT max(key) FROM {batch} WHERE key<=?), 0)",
                cls,
            ),
            (min(high, self.state(cls).frozen_key), low),
        )
        trimmed = 0
        for key, row_last in rows:
            if key >> SEQ_BITS != boot or row_last < seq_first:
                continue
            row_first = key & SEQ_MAX
            acknowledged = self._partly.setdefault((cls, key), IntervalSet())
            acknowledged.add(max(row_first, seq_first), min(row_last, seq_last))
            if acknowledged.covers(row_first, row_last):
                self._trim_row(cls, key)
                trimmed += 1
        return trimmed

    def run_after(self, cls: str, after: int) -> list[Row]:
        """The first rows above ``after`` that may merge: unfrozen, one boot, no gap between."""
        with storage_errors("reading the spool"):
            cursor = self._connection.execute(
                _sql("SELECT key, seq_last, body FROM {batch} WHERE key>? ORDER BY key", cls),
                (max(after, self.state(cls).frozen_key),),
            )
            run: list[Row] = []
            for row in map(Row._make, cursor):
                if run and (row.key != run[-1].last_position + 1 or len(run) == RUN_MAX_ROWS):
                    break
                run.append(row)
                if sum(len(r.body) for r in run) >= RUN_MAX_BYTES:
                    break
            cursor.close()
        return run

    def replace(self, cls: str, run: Sequence[Row], batches: Sequence[Batch]) -> None:
        """Put ``batches`` in the place of ``run``, which they cover."""
        state = self.state(cls)
        for row in run:
            self._delete(cls, row.key)
        self.insert(cls, run[0].key >> SEQ_BITS, batches)
        vanished = state.records - self.state(cls).records
        self._write("UPDATE class_state SET merged=merged+? WHERE cls=?", (vanished, cls))

    def drop_oldest(self, cls: str, body_bytes: int) -> None:
        """Give up the oldest rows, up to 64, until ``body_bytes`` are freed; count each."""
        freed = 0
        rows = self._all(
            _sql("SELECT key, seq_last, length(body) FROM {batch} ORDER BY key LIMIT 64", cls)
        )
        for key, seq_last, size in rows:
            if freed >= body_bytes:
                return
            self.drop_row(cls, key, seq_last, "space")
            freed += size

    def drop_row(self, cls: str, key: int, seq_last: int, reason: str) -> None:
        """Give up one row and count what of it was not acknowledged."""
        first, boot = key & SEQ_MAX, key >> SEQ_BITS
        acknowledged = self._partly.get((cls, key), IntervalSet())
        for a, b in IntervalSet([(first, seq_last)]).difference(acknowledged):
            self.bury(DroppedRange(cls, boot, a, b, reason))
        self._delete(cls, key)

    # Tombstones

    def bury(self, lost: DroppedRange) -> None:
        """Count a dropped range; ranges that touch share a tombstone."""
        self._write(
            "UPDATE class_state SET dropped=dropped+? WHERE cls=?",
            (lost.seq_last - lost.seq_first + 1, lost.cls),
        )
        grown = self._write(
            "UPDATE tombstone SET seq_last=? WHERE cls=? AND boot=? AND reason=? AND seq_last=?",
            (lost.seq_last, lost.cls, lost.boot, lost.reason, lost.seq_first - 1),
        )
        if not grown:
            self._write(
                "INSERT INTO tombstone (cls, boot, seq_first, seq_last, reason)"
                " VALUES (?, ?, ?, ?, ?)",
                lost,
            )
            self._write(
                "DELETE FROM tombstone WHERE id <= (SELECT max(id) FROM tombstone) - ?",
                (TOMBSTONES_MAX,),
            )

    def tombstones(self) -> list[DroppedRange]:
        """What was dropped, oldest tombstone first."""
        rows = self._all("SELECT cls, boot, seq_first, seq_last, reason FROM tombstone ORDER BY id")
        return [DroppedRange(*row) for row in rows]

    # Space

    @property
    def pages(self) -> int:
        """Pages of the main file, free ones included."""
        return int(self._all("PRAGMA page_count")[0][0])

    @property
    def used_pages(self) -> int:
        """Pages that hold something."""
        return self.pages - int(self._all("PRAGMA freelist_count")[0][0])

    # Below: single statements

    def _read_boots(self) -> None:
        rows = self._all("SELECT boot, given, boot_id FROM boot")
        self.boots = {boot.number: boot for boot in map(Boot._make, rows)}
        self._boots_changed = False

    def _trim_row(self, cls: str, key: int) -> None:
        self._delete(cls, key)
        self._trimmed.append((cls, key))

    def _delete(self, cls: str, key: int) -> None:
        found = self._all(
            _sql("SELECT records, length(body) FROM {batch} WHERE key=?", cls), (key,)
        )
        for records, size in found:
            self._write(_sql("DELETE FROM {batch} WHERE key=?", cls), (key,))
            self._count(cls, -records, -size)
        self._partly.pop((cls, key), None)

    def _count(self, cls: str, records: int, body_bytes: int) -> None:
        self._write(
            "UPDATE class_state SET records=records+?, body_bytes=body_bytes+? WHERE cls=?",
            (records, body_bytes, cls),
        )

    def _boot_is_used(self, boot: int) -> bool:
        low, high = position(boot, 0), position(boot, SEQ_MAX)
        if self._all("SELECT 1 FROM tombstone WHERE boot=? LIMIT 1", (boot,)):
            return True
        return any(
            self._all(
                _sql("SELECT 1 FROM {batch} WHERE key BETWEEN ? AND ? LIMIT 1", cls), (low, high)
            )
            for cls in _TABLES
        )

    def _write(self, statement: str, values: Sequence[object]) -> int:
        with storage_errors("writing to the spool"):
            if not self._connection.in_transaction:
                self._connection.execute("BEGIN IMMEDIATE")
            return self._connection.execute(statement, values).rowcount

    def _all(self, statement: str, values: Sequence[object] = ()) -> list[Any]:
        with storage_errors("reading the spool"):
            return self._connection.execute(statement, values).fetchall()


def _sql(statement: str, cls: str) -> str:
    return statement.replace("{batch}", _TABLES[cls])
