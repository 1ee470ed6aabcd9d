"""What goes in and out of the spool, and what it says about itself."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class SpoolRecord(msgspec.Struct, frozen=True):
    """One record to send. ``backfill``: recorded before the present connection."""

    cls: str
    boot_id: str
    seq_first: int
    seq_last: int
    payload: bytes
    backfill: bool


class AcceptedRange(msgspec.Struct, frozen=True):
    """Sequence numbers, both ends included, that are durable in the spool."""

    cls: str
    boot_id: str
    seq_first: int
    seq_last: int


class Tombstone(msgspec.Struct, frozen=True):
    """Sequence numbers given up without an acknowledgement.

    ``reason``: ``space``; ``damaged``; or ``unwritten``: never accepted, the disk refused it.
    """

    cls: str
    boot_id: str
    seq_first: int
    seq_last: int
    reason: str


class ClassStats(msgspec.Struct, frozen=True):
    """What a class holds on disk, and its counters since the spool was made.

    Attributes:
        records: payloads on disk, not yet acknowledged.
        stored_bytes: what they take, compressed.
        dropped_count: sequence numbers given up.
        merged_count: payloads that went into a neighbour; nothing of them was lost but detail.
    """

    records: int = 0
    stored_bytes: int = 0
    dropped_count: int = 0
    merged_count: int = 0


class SpoolStats(msgspec.Struct, frozen=True):
    """``used_bytes``: everything on disk; ``pending_records`` wait in memory for a flush."""

    used_bytes: int
    cap_bytes: int
    pending_records: int
    dropped_count: int
    classes: Mapping[str, ClassStats]
