"""The spool's side towards the disk: commits, and what happens when a commit cannot be.

Nothing raised by the storage leaves from here: it becomes a finding, and the store is either usable
again or closed, to be opened anew by the next write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from edge_agent.telemetry import spool_file
from edge_agent.telemetry.batch import Batch, BatchCodec, Merge, Record
from edge_agent.telemetry.errors import Fault, SpoolError, StorageError
from edge_agent.telemetry.findings import Findings
from edge_agent.telemetry.pending import Pending
from edge_agent.telemetry.quota import CLASSES
from edge_agent.telemetry.room import HEADROOM_PAGES, Room
from edge_agent.telemetry.spool_file import PAGE_BYTES
from edge_agent.telemetry.spool_store import Boot, DroppedRange, Row, SpoolStore
from edge_contract.intervals import IntervalSet

_CODE_BY_FAULT = {
    Fault.FULL: "storage_full",
    Fault.IO: "storage_io",
    Fault.BUSY: "storage_io",
    Fault.CORRUPT: "quarantined",
}


class SpoolDisk:
    """Holds the store while there is one; for arguments and errors see ``Spool.open``.

    Attributes:
        store: None while the disk lets it be neither opened nor made.
        boot: the present boot.
    """

    def __init__(
        self,
        path: Path,
        *,
        cap_bytes: int,
        quotas: Mapping[str, float],
        boot_id: str,
        merge: Mapping[str, Merge],
        findings: Findings,
        token: Callable[[], str],
    ) -> None:
        self.cap_bytes = cap_bytes
        self._path = path
        self._findings = findings
        self._codec = BatchCodec()
        self._room = Room(self._codec, quotas, merge, findings)
        self.store: SpoolStore | None = None
        try:
            store = self._usable_store()
        except StorageError as error:
            raise _cannot_open(path, error) from error
        if not store.boots and spool_file.quarantined_bytes(path) and not findings.listed():
            # The process that set it aside ended before its first flush.
            findings.note("quarantined", _quarantine_text(path, "found at an earlier start"))
        self.boot = _boot_of(store, boot_id, token, lost=bool(findings.listed()))
        if store.pages > self._cap_pages:
            self._fit_lowered_cap(store)

    @property
    def has_trims(self) -> bool:
        """Whether acknowledged rows await a commit."""
        return self.store is not None and self.store.uncommitted_trims > 0

    def stored_next_seq(self, cls: str) -> int:
        """The first sequence number of this boot that no flush has used up."""
        if self.store is None:
            return 1
        state = self.store.state(cls)
        return state.next_seq if state.boot == self.boot.number else 1

    def used_bytes(self) -> int:
        """Everything on disk: file, log, and what was set aside."""
        return spool_file.disk_bytes(self._path)

    def read(self, store: SpoolStore, cls: str, row: Row) -> list[Record]:
        """A row's records; none, a finding and a tombstone if it is damaged."""
        return self._room.read(store, cls, row)

    def write(self, pending: Pending, next_seq: Mapping[str, int]) -> dict[str, IntervalSet] | None:
        """Commit ``pending`` and the trims.

        Returns:
            The ranges now durable by class; None if the disk refused.
        """
        batches = {cls: self._codec.pack(pending.records[cls]) for cls in CLASSES}
        fault = self._try(pending, batches, next_seq, grow=True)
        if fault is not None:
            # Once more: on a full disk within the pages that the file has, after damage anew.
            fault = self._try(pending, batches, next_seq, grow=fault is Fault.CORRUPT)
        if fault is not None:
            return None
        self._findings.resolve("storage_full", "storage_io")
        return {
            cls: IntervalSet((b.seq_first, b.seq_last) for b in batches[cls]) for cls in CLASSES
        }

    def on_fault(self, error: StorageError) -> None:
        """Report; leave the store usable or closed. Sequence numbers go on from memory."""
        text = error.message
        if error.fault is Fault.CORRUPT:
            text = _quarantine_text(self._path, error.message)
        self._findings.note(_CODE_BY_FAULT[error.fault], text)
        try:
            if error.fault is Fault.CORRUPT:
                self.close()
                spool_file.quarantine(self._path)
            elif self.store is not None:
                self.store.rollback()
        except StorageError as second:
            self._findings.note(_CODE_BY_FAULT[second.fault], second.message)
            self.close()

    def close(self) -> None:
        """Close the file; uncommitted trims are forgotten."""
        if self.store is not None:
            with suppress(StorageError):
                self.store.close()
            self.store = None

    @property
    def _cap_pages(self) -> int:
        return self.cap_bytes // PAGE_BYTES

    def _usable_store(self) -> SpoolStore:
        if self.store is None:
            connection, lost = spool_file.open_or_replace(self._path, self.cap_bytes)
            if lost:
                self._findings.note("quarantined", _quarantine_text(self._path, lost))
            self.store = SpoolStore(connection)
        return self.store

    def _try(
        self,
        pending: Pending,
        batches: Mapping[str, Sequence[Batch]],
        next_seq: Mapping[str, int],
        *,
        grow: bool,
    ) -> Fault | None:
        try:
            store = self._usable_store()
            if pending:
                self._make_room(store, batches, grow=grow)
                store.add_boot(self.boot)
                for cls in CLASSES:
                    store.insert(cls, self.boot.number, batches[cls])
                    store.set_next_seq(cls, self.boot.number, next_seq[cls])
                for cls, first, last in pending.lost_ranges():
                    store.bury(DroppedRange(cls, self.boot.number, first, last, "unwritten"))
            store.commit()
        except StorageError as error:
            self.on_fault(error)
            return error.fault
        return None

    def _make_room(
        self, store: SpoolStore, batches: Mapping[str, Sequence[Batch]], *, grow: bool
    ) -> None:
        """Room for ``batches`` below the cap, which what was set aside shares until it must go."""
        needed_pages = sum(len(b.body) // PAGE_BYTES + 2 for bs in batches.values() for b in bs)
        aside_pages = -(-spool_file.quarantined_bytes(self._path) // PAGE_BYTES)
        wanted_pages = store.used_pages + needed_pages + HEADROOM_PAGES
        if aside_pages and (not grow or wanted_pages > self._cap_pages - aside_pages):
            spool_file.remove_quarantined(self._path)
            aside_pages = 0
        limit_pages = self._cap_pages - aside_pages if grow else min(self._cap_pages, store.pages)
        self._room.make(store, needed_pages, limit_pages)

    def _fit_lowered_cap(self, store: SpoolStore) -> None:
        try:
            self._room.make(store, 0, self._cap_pages)
            store.compact(self._path)
            self.store = None
            self._usable_store()
        except StorageError as error:
            self.on_fault(error)


def _boot_of(store: SpoolStore, given: str, token: Callable[[], str], *, lost: bool) -> Boot:
    """The present boot. If counters of an equal id may be lost, its name gets a suffix, or its
    sequence numbers would be taken for repeats."""
    newest = max(store.boots, default=0)
    if newest and store.boots[newest].given == given:
        return store.boots[newest]
    known = any(boot.given == given for boot in store.boots.values())
    return Boot(newest + 1, given, f"{given}.{token()}" if lost or known else given)


def _quarantine_text(path: Path, reason: str) -> str:
    return (
        f"the spool was damaged ({reason}) and set aside as {spool_file.quarantine_path(path)};"
        " what the fleet had not acknowledged of it is lost"
    )


def _cannot_open(path: Path, error: StorageError) -> SpoolError:
    if error.fault is Fault.BUSY:
        return SpoolError(
            f"spool {path}: another process has it open",
            hint="only one agent may run on a state directory; stop the other one",
        )
    return SpoolError(
        f"spool {path}: {error.message}",
        hint="see that the directory exists, is writable and has free space",
    )
