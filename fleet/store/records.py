"""Rows of device records, the sequence numbers that are committed, and counts of repeats."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, tuple_, update

from edge_contract.intervals import IntervalSet
from fleet.store.schema import committed, duplicates, records


class Stream(msgspec.Struct, frozen=True, order=True):
    """What a sequence of numbers belongs to. ``cls`` is never ``telemetry_backfill``."""

    device: str
    boot_id: str
    cls: str


class RecordRow(msgspec.Struct, frozen=True, kw_only=True):
    """One record as the device sent it: sequence numbers ``seq_first`` to ``seq``."""

    device: str
    boot_id: str
    cls: str
    seq: int
    seq_first: int
    name: str
    severity: str
    ts: float
    received_at_s: float
    model_version: str
    payload: bytes


def add_records(tx: Connection, rows: Iterable[RecordRow]) -> None:
    """Store records. The primary key refuses a second one with the same last number."""
    values = [msgspec.structs.asdict(row) for row in rows]
    if values:
        tx.execute(insert(records), values)


def committed_ranges(tx: Connection, stream: Stream) -> IntervalSet | None:
    """The committed numbers of a stream, None for a stream that is not stored yet."""
    text = tx.scalar(select(committed.c.ranges).where(*_at(stream)))
    return None if text is None else IntervalSet.from_list(json.loads(text))


def save_ranges(tx: Connection, stream: Stream, ranges: IntervalSet, *, new: bool) -> None:
    """Store the committed numbers of a stream."""
    values = {"ranges": json.dumps(ranges.to_list()), "seq_count": ranges.count()}
    if new:
        tx.execute(insert(committed).values(**msgspec.structs.asdict(stream), **values))
    else:
        tx.execute(update(committed).where(*_at(stream)).values(**values))


def count_duplicates(tx: Connection, device: str, cls: str, copies: int, now_s: float) -> None:
    """Add to the count of records that came again."""
    here = (duplicates.c.device == device, duplicates.c.cls == cls)
    done = tx.execute(
        update(duplicates).where(*here).values(copies=duplicates.c.copies + copies, last_at_s=now_s)
    )
    if done.rowcount == 0:
        tx.execute(
            insert(duplicates).values(device=device, cls=cls, copies=copies, last_at_s=now_s)
        )


def recent_records(
    tx: Connection, device: str, classes: Iterable[str], limit: int
) -> list[RecordRow]:
    """The newest records of a device by its own clock, newest first."""
    rows = tx.execute(
        select(records)
        .where(records.c.device == device, records.c.cls.in_(list(classes)))
        .order_by(records.c.ts.desc(), records.c.seq.desc())
        .limit(limit)
    ).mappings()
    return [RecordRow(**row) for row in rows]


def alarm_records(tx: Connection, device: str, limit: int) -> list[RecordRow]:
    """The newest events of severity ``alarm``, of one device or ("") of all, newest first."""
    query = select(records).where(records.c.cls == "event", records.c.severity == "alarm")
    if device:
        query = query.where(records.c.device == device)
    rows = tx.execute(query.order_by(records.c.ts.desc()).limit(limit)).mappings()
    return [RecordRow(**row) for row in rows]


def drop_records(tx: Connection, *, before_s: float, limit: int) -> int:
    """Delete at most ``limit`` records, the oldest of those received before ``before_s``.

    Their numbers stay committed: when one comes again, it is a repeat as ever.

    Returns:
        how many went.
    """
    key = tuple_(*records.primary_key.columns)
    oldest = (
        select(*records.primary_key.columns)
        .where(records.c.received_at_s < before_s)
        .order_by(records.c.received_at_s)
        .limit(limit)
    )
    return tx.execute(delete(records).where(key.in_(oldest))).rowcount


def committed_counts(tx: Connection, device: str) -> dict[str, int]:
    """Committed sequence numbers of a device per class, all boots together."""
    rows = tx.execute(
        select(committed.c.cls, func.sum(committed.c.seq_count))
        .where(committed.c.device == device)
        .group_by(committed.c.cls)
    )
    return {cls: int(count) for cls, count in rows}


def duplicates_of(tx: Connection, device: str) -> int:
    """How many records of a device came again."""
    return int(
        tx.scalar(select(func.sum(duplicates.c.copies)).where(duplicates.c.device == device)) or 0
    )


def totals(tx: Connection) -> tuple[int, int]:
    """(committed sequence numbers, repeats) of the whole fleet."""
    stored = tx.scalar(select(func.sum(committed.c.seq_count)))
    again = tx.scalar(select(func.sum(duplicates.c.copies)))
    return int(stored or 0), int(again or 0)


def _at(stream: Stream) -> tuple[ColumnElement[bool], ...]:
    return (
        committed.c.device == stream.device,
        committed.c.boot_id == stream.boot_id,
        committed.c.cls == stream.cls,
    )
