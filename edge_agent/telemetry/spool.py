"""The durable spool: what the device has to say waits here until the fleet has committed it.

Guarantees (docs/explanation/spool.md says them at length):

1. A record that ``flush`` reported is on disk. It goes only when the fleet acknowledges it, or,
   when space is short, into a merged neighbour or into a tombstone that counts it.
2. What ``next_batch`` hands out is frozen first, so no key is ever sent with two contents.
3. A sequence number is never given to two flushed records of one boot.
4. Disk stays within the cap + 1 MB; a full or failing disk, or a damaged file, ends in a finding
   and a counter, never in an exception from ``append``, ``flush``, ``next_batch`` or ``ack``.

One thread owns a spool (SQLite refuses others); the inference thread only posts to that owner.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType

from edge_agent.telemetry.batch import PAYLOAD_MAX_BYTES, Merge
from edge_agent.telemetry.disk import SpoolDisk
from edge_agent.telemetry.errors import SpoolError, StorageError
from edge_agent.telemetry.findings import Finding, Findings
from edge_agent.telemetry.ledger import Ledger
from edge_agent.telemetry.pending import Pending
from edge_agent.telemetry.quota import CLASSES, check_quotas
from edge_agent.telemetry.records import (
    AcceptedRange,
    ClassStats,
    SpoolRecord,
    SpoolStats,
    Tombstone,
)
from edge_agent.telemetry.spool_file import check_cap
from edge_agent.telemetry.spool_store import SEQ_BITS, position
from edge_contract.intervals import IntervalSet

_TRIMS_MAX = 256
"""Trimmed batches that may await a commit."""


class Spool:
    """See the module. Made by ``Spool.open``."""

    def __init__(
        self,
        disk: SpoolDisk,
        *,
        quotas: Mapping[str, float],
        clock: Callable[[], float],
        ledger: Ledger | None,
        findings: Findings,
    ) -> None:
        self._disk = disk
        self._quotas = quotas
        self._clock = clock
        self._ledger = ledger
        self._findings = findings
        self._pending = Pending()
        self._accepted = {cls: IntervalSet() for cls in CLASSES}
        self._next_seq = {cls: disk.stored_next_seq(cls) for cls in CLASSES}
        self._cursor: dict[str, int] = {}
        self._live_from: dict[str, int] = {}
        self.reset_in_flight()

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        cap_bytes: int,
        quotas: Mapping[str, float],
        boot_id: str,
        merge: Mapping[str, Merge],
        clock: Callable[[], float],
        ledger_path: Path | None = None,
        token: Callable[[], str] = lambda: secrets.token_hex(4),
    ) -> Spool:
        """Open the spool at ``path``, or make one.

        Args:
            path: the SQLite file; ``-wal`` and ``.quarantined`` files lie beside it.
            cap_bytes: of the main file; at most 1 MB of log comes on top.
            quotas: share of the cap for each of ``CLASSES``, together at most 1.
            boot_id: unique for each boot of the device, or each start of the agent.
            merge: for classes whose records may merge; gets an earlier and a later payload.
            clock: unix seconds.
            ledger_path: where to account for every flush, for auditors; None for none.
            token: tells boots apart when the old counters are lost.

        Raises:
            SpoolError: a setting is refused, another process has the file, or the disk lets the
                file be neither opened nor made. A damaged file is no error but a finding.
        """
        check_cap(cap_bytes)
        quotas = check_quotas(quotas)
        if not 0 < len(boot_id) <= 64 or set(merge) - set(CLASSES):
            raise SpoolError(
                "spool: expected a boot id of 1 to 64 characters and merges for"
                f" {', '.join(CLASSES)}; got {boot_id[:80]!r} and {', '.join(merge) or 'none'}"
            )
        findings = Findings(clock)
        disk = SpoolDisk(
            path,
            cap_bytes=cap_bytes,
            quotas=quotas,
            boot_id=boot_id,
            merge=merge,
            findings=findings,
            token=token,
        )
        ledger = Ledger(ledger_path) if ledger_path is not None else None
        return cls(disk, quotas=quotas, clock=clock, ledger=ledger, findings=findings)

    @property
    def boot_id(self) -> str:
        """What stands in the keys of this boot's records, and must stand in their payloads.

        The ``boot_id`` given to ``open``, with a suffix if this boot's counters were lost.
        """
        return self._disk.boot.boot_id

    @property
    def findings(self) -> list[Finding]:
        """What went wrong since ``open``, by kind."""
        return self._findings.listed()

    # In

    def append(
        self, cls: str, make_payload: Callable[[int], bytes], *, durable: bool = False
    ) -> int:
        """Take a record into memory; it is acknowledged into the spool by the next ``flush``.

        Args:
            cls: one of ``CLASSES``.
            make_payload: gets the sequence number; its payload should carry it and ``boot_id``.
            durable: flush at once.

        Returns:
            The sequence number.

        Raises:
            SpoolError: unknown class, or a payload above 128 KB; the number is not used up.
        """
        seq = self._next_seq[_known(cls)]
        payload = make_payload(seq)
        if len(payload) > PAYLOAD_MAX_BYTES:
            raise SpoolError(
                f"spool: expected at most {PAYLOAD_MAX_BYTES} bytes a record, got {len(payload)}"
                f" in class {cls}"
            )
        if not self._pending.has_room(payload):
            self._write()
            self._pending.shed(payload, self._quotas)
        self._pending.add(cls, seq, payload)
        self._next_seq[cls] = seq + 1
        if durable:
            self._write()
        return seq

    def flush(self) -> list[AcceptedRange]:
        """Commit what is in memory, of all classes as one transaction.

        Returns:
            Everything accepted since the last call. What is missing (the disk is full, see
            ``findings``) stays in memory for the next flush; beyond 256 KB the oldest is dropped
            and counted.
        """
        self._write()
        accepted = [
            AcceptedRange(cls, self.boot_id, a, b)
            for cls in CLASSES
            for a, b in self._accepted[cls]
        ]
        self._accepted = {cls: IntervalSet() for cls in CLASSES}
        return accepted

    # Out

    def next_batch(
        self, cls: str, *, max_bytes: int = 64 * 1024, max_records: int = 256
    ) -> list[SpoolRecord]:
        """The oldest flushed records that are not in flight; they are frozen and in flight now.

        Args:
            cls: one of ``CLASSES``.
            max_bytes: of payloads; one record is returned even if it alone is larger.
            max_records: at least 1.
        """
        cursor = self._cursor[_known(cls)]
        picked: list[SpoolRecord] = []
        store = self._disk.store
        if store is None:
            return picked
        try:
            size_bytes = sent_key = 0
            full = False
            while not full and (row := store.next_row(cls, cursor)) is not None:
                boot = row.key >> SEQ_BITS
                records = store.unacknowledged(cls, row, self._disk.read(store, cls, row))
                for record in records:
                    at = position(boot, record.seq_last)
                    if at <= cursor:
                        continue
                    size_bytes += len(record.payload)
                    full = bool(picked) and (size_bytes > max_bytes or len(picked) >= max_records)
                    if full:
                        break
                    picked.append(
                        SpoolRecord(
                            cls,
                            store.boots[boot].boot_id,
                            *record,
                            backfill=at < self._live_from[cls],
                        )
                    )
                    cursor, sent_key = at, row.key
                else:
                    cursor = row.last_position
            store.freeze(cls, sent_key)
        except StorageError as error:
            self._disk.on_fault(error)
            return []
        self._cursor[cls] = cursor
        return picked

    def ack(self, boot_id: str, cls: str, ranges: Iterable[Sequence[int]]) -> int:
        """Trim what the fleet has committed.

        What was never handed out is not trimmed. The space is free at once; the trimming itself is
        committed with the next flush, and a power cut before that costs a repeat.

        Returns:
            Stored batches that went.

        Raises:
            ContractError: a range is not [a, b] with a <= b.
            SpoolError: unknown class.
        """
        wanted = IntervalSet(ranges)
        store = self._disk.store
        if store is None:
            return 0
        trimmed = 0
        try:
            for boot in store.boots.values():
                if boot.boot_id == boot_id:
                    for first, last in wanted:
                        trimmed += store.trim(_known(cls), boot.number, first, last)
            if store.uncommitted_trims > _TRIMS_MAX:
                store.commit()
        except StorageError as error:
            self._disk.on_fault(error)
        return trimmed

    def reset_in_flight(self, *, reconnected: bool = True) -> None:
        """Return what is not acknowledged again, from the oldest on.

        Args:
            reconnected: a new connection began (what was recorded before it is backfill from now
                on), not merely a time-out.
        """
        self._cursor = dict.fromkeys(CLASSES, 0)
        if reconnected:
            boot = self._disk.boot.number
            self._live_from = {cls: position(boot, seq) for cls, seq in self._next_seq.items()}

    # About

    def stats(self) -> SpoolStats:
        """Sizes and counters, for telemetry and the agent's state."""
        store = self._disk.store
        classes = {cls: ClassStats() for cls in CLASSES}
        if store is not None:
            try:
                classes = {cls: ClassStats(*store.state(cls)[3:]) for cls in CLASSES}
            except StorageError as error:
                self._disk.on_fault(error)
        unwritten_count = sum(lost.count() for lost in self._pending.lost.values())
        return SpoolStats(
            used_bytes=self._disk.used_bytes(),
            cap_bytes=self._disk.cap_bytes,
            pending_records=self._pending.count(),
            dropped_count=unwritten_count + sum(c.dropped_count for c in classes.values()),
            classes=classes,
        )

    def tombstones(self) -> list[Tombstone]:
        """What was dropped: the latest 256 ranges; ``stats`` counts all."""
        listed = [
            Tombstone(cls, self.boot_id, first, last, "unwritten")
            for cls, first, last in self._pending.lost_ranges()
        ]
        store = self._disk.store
        if store is not None:
            try:
                listed[:0] = [
                    Tombstone(lost.cls, store.boots[lost.boot].boot_id, *lost[2:])
                    for lost in store.tombstones()
                ]
            except StorageError as error:
                self._disk.on_fault(error)
        return listed

    def close(self) -> None:
        """Flush and close. The spool is not used afterwards."""
        self._write()
        self._disk.close()

    def __enter__(self) -> Spool:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _write(self) -> None:
        """Commit what is pending; what the disk refuses stays pending."""
        if not self._pending and not self._disk.has_trims:
            return
        ranges = self._disk.write(self._pending, self._next_seq)
        if ranges is None:
            return
        self._pending.clear()
        entries: list[tuple[str, str, int, int]] = []
        for cls in CLASSES:
            self._accepted[cls].update(ranges[cls])
            entries += [(self.boot_id, cls, first, last) for first, last in ranges[cls]]
        if self._ledger is None or not entries:
            return
        try:
            self._ledger.write(entries, self._clock())
        except OSError as error:
            self._findings.note("ledger_failed", f"the spool's ledger misses lines: {error}")


def _known(cls: str) -> str:
    if cls not in CLASSES:
        raise SpoolError(f"spool class {cls!r}: expected one of {', '.join(CLASSES)}")
    return cls
