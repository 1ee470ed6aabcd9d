"""What the manager tells of itself: what is published, what changed, and how it is."""

from __future__ import annotations

import msgspec


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One published bundle."""

    line: str
    version: str
    digest: str
    hardware: list[str]
    size_bytes: int
    running_on_count: int


class ReceiptsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What an import of receipts came to, counted in messages that are kept as records."""

    new_count: int
    known_count: int
    refused_count: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed; whoever shows ``subject`` should ask for it again.

    kind: ``device``, ``rollout``, ``drift``, ``finding``, ``repository``, ``broker``, ``audit``.
    text: a sentence for an event log, "" for changes that are not worth one.
    """

    id: int
    at_s: float
    kind: str
    subject: str
    text: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes after a cursor.

    reset: the cursor is from another run or too old; ask for everything again.
    """

    cursor: str
    reset: bool
    changes: list[Change]


class Reminder(msgspec.Struct, frozen=True, kw_only=True):
    """Something that people have to sign soon, or should have.

    text: a sentence; command: what comes next.
    """

    text: str
    expires_s: float
    left_days: float
    command: str


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """How the manager itself is.

    queue_count: MQTT messages that wait to be ingested.
    records_count, duplicates_count, findings_count: over the life of the store.
    ingest_lag_s: age of the oldest message of the batch ingested last, when it was committed.
    reminders: what people have to sign before it runs out.
    signed_until_s: when the first signature of the metadata runs out; None before it was looked at.
    """

    fleet: str
    broker: str
    connected: bool
    connected_since_s: float | None
    reconnects_count: int
    started_at_s: float
    now_s: float
    version: str
    devices_count: int
    online_count: int
    queue_count: int
    ingest_lag_s: float
    records_count: int
    duplicates_count: int
    findings_count: int
    blob_bytes_sent: int
    problem: str
    reminders: list[Reminder]
    signed_until_s: float | None
