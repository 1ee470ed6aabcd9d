"""Makes room in a full spool: merges neighbours, then drops the oldest.

Every step is a transaction of its own, small enough that the log stays within its bound, so a power
cut in the middle leaves a spool that merged or dropped a little less.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from edge_agent.telemetry.batch import (
    BatchCodec,
    BatchDamagedError,
    Merge,
    Record,
    merge_run,
)
from edge_agent.telemetry.errors import Fault, StorageError
from edge_agent.telemetry.findings import Findings
from edge_agent.telemetry.quota import CLASSES, relief_order
from edge_agent.telemetry.spool_file import PAGE_BYTES
from edge_agent.telemetry.spool_store import Row, SpoolStore

HEADROOM_PAGES = 16
"""Always free below the cap, so that deleting and merging have pages to work with when full."""

_OWN_PAGES = 16
"""The schema, the boots and the tombstones."""

_DROP_AT_LEAST_BYTES = 16 * 1024
"""What one drop frees: a commit for every few kilobytes would wear the flash."""


class _Hand(msgspec.Struct):
    """Where merging stands in a class.

    It sweeps from old to new, and begins anew while the last sweep merged something: what is oldest
    has been through most sweeps and is coarsest. After a sweep in vain only newer rows are tried.
    """

    after: int = 0
    merged: bool = False


class Room:
    """Frees pages by the quotas. Holds what it knows between calls, but no rows."""

    def __init__(
        self,
        codec: BatchCodec,
        shares: Mapping[str, float],
        merge: Mapping[str, Merge],
        findings: Findings,
    ) -> None:
        self._codec = codec
        self._shares = shares
        self._merge = merge
        self._findings = findings
        self._hands = {cls: _Hand() for cls in merge}

    def make(self, store: SpoolStore, needed_pages: int, limit_pages: int) -> None:
        """Free pages until ``needed_pages`` and the headroom fit below ``limit_pages``.

        Raises:
            StorageError: FULL if they could not even fit in an empty spool (nothing is dropped
                then), or what the storage said.
        """
        wanted = needed_pages + HEADROOM_PAGES
        if wanted + _OWN_PAGES > limit_pages:
            raise StorageError(
                Fault.FULL,
                f"spool: expected room for {wanted + _OWN_PAGES} pages of {PAGE_BYTES} bytes,"
                f" the disk leaves {limit_pages}",
            )
        while (missing := store.used_pages + wanted - limit_pages) > 0:
            if not self._relieve(store, missing, limit_pages):
                raise StorageError(Fault.FULL, f"spool: {missing} pages short with nothing to drop")

    def read(self, store: SpoolStore, cls: str, row: Row) -> list[Record]:
        """A row's records; a damaged row is dropped, counted and found, and gives none."""
        try:
            return self._codec.unpack(row.body, row.seq_first, row.seq_last)
        except BatchDamagedError as error:
            self._findings.note("record_damaged", f"{cls}: {error.message}; counted as dropped")
            store.drop_row(cls, row.key, row.seq_last, "damaged")
            return []

    def _relieve(self, store: SpoolStore, missing_pages: int, limit_pages: int) -> bool:
        used_bytes = {cls: store.state(cls).body_bytes for cls in CLASSES}
        capacity_bytes = limit_pages * PAGE_BYTES
        for kind, cls in relief_order(used_bytes, self._shares, capacity_bytes, self._merge):
            if kind == "merge" and not self._merge_step(store, cls):
                continue
            if kind == "drop":
                store.drop_oldest(cls, max(missing_pages * PAGE_BYTES, _DROP_AT_LEAST_BYTES))
            store.commit()
            return True
        return False

    def _merge_step(self, store: SpoolStore, cls: str) -> bool:
        """Merge within the next run of rows where that saves anything; False after the last."""
        hand = self._hands[cls]
        while True:
            run = store.run_after(cls, hand.after)
            if not run:
                if not hand.merged:
                    return False
                hand.after, hand.merged = 0, False
                continue
            hand.after = run[-1].last_position
            records: list[Record] = []
            for row in run:
                found = self.read(store, cls, row)
                if not found:
                    return True
                records += found
            batches = self._codec.pack(merge_run(records, self._merge[cls]))
            if sum(len(b.body) for b in batches) < sum(len(row.body) for row in run):
                store.replace(cls, run, batches)
                hand.merged = True
                return True
