"""The tables, in words that SQLite and PostgreSQL both understand.

Times are unix seconds of the manager's clock in columns that end in ``_at_s``; ``ts`` is the
device's own clock. The migrations under ``migrations/`` build exactly this; a test compares them.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Float,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    false,
    text,
)

metadata = MetaData()

# SQLite counts up only an INTEGER PRIMARY KEY by itself.
_COUNTING = BigInteger().with_variant(Integer(), "sqlite")

meta = Table(
    "meta",
    metadata,
    Column("name", String(64), primary_key=True),
    Column("value", Text, nullable=False),
)
"""Facts about the store itself: which fleet it belongs to."""

devices = Table(
    "devices",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("public_key", String(64), nullable=False),
    Column("hardware", String(40), nullable=False),
    Column("line", String(40), nullable=False),
    Column("agent_version", String(64), nullable=False),
    Column("enrolled_at_s", Float, nullable=False),
    Column("last_seen_at_s", Float, nullable=False),
    Column("online", Boolean, nullable=False),
    Column("connection_id", String(80), nullable=False),
    Column("connection_boot_id", String(80), nullable=False),
    Column("connection_seq", BigInteger, nullable=False),
    Column("connection_ts", Float, nullable=False),
    Column("desired_epoch", BigInteger, nullable=False, server_default=text("0")),
    Column("desired_seq", BigInteger, nullable=False),
    Column("reported_epoch", BigInteger, nullable=False),
    Column("reported_seq", BigInteger, nullable=False),
    Column("state", LargeBinary),
    Column("state_at_s", Float),
    Column("telemetry", LargeBinary),
    Column("telemetry_ts", Float),
    Column("unheard", Boolean, nullable=False, server_default=false()),
)
"""One row per pinned key. ``state`` and ``telemetry`` are the newest payloads as they came;
``desired_epoch`` and ``desired_seq`` are the newest number that this fleet gave, ``reported_…``
what the device said. ``unheard``: a backup was restored, and the device has not said since where it
stands; until then it may have gone on, and no order is signed for it."""

orders = Table(
    "orders",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("epoch", BigInteger, nullable=False),
    Column("rollout", String(120), nullable=False),
    Column("line", String(40), nullable=False),
    Column("version", String(80), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at_s", Float, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("from_backup", Boolean, nullable=False, server_default=false()),
    Index("orders_by_time", "issued_at_s"),
)
"""Every ``desired`` that was signed, for as long as it may matter (``fleet.manager.retention``).
The one with the device's ``desired_seq`` is in force; an empty ``envelope`` is a withdrawal that
left the device nothing to run instead. ``from_backup``: a backup brought it, so others may have
followed that this store does not know of."""

configurations = Table(
    "configurations",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("epoch", BigInteger, nullable=False),
    Column("settings", LargeBinary, nullable=False),
    Column("envelope", LargeBinary, nullable=False),
    Column("issued_at_s", Float, nullable=False),
    Column("expires_at_s", Float, nullable=False),
)
"""What is wanted of each device's settings (JSON), and the newest document that was signed."""

rollouts = Table(
    "rollouts",
    metadata,
    Column("number", _COUNTING, primary_key=True, autoincrement=True),
    Column("id", String(120), nullable=False, unique=True),
    Column("line", String(40), nullable=False),
    Column("version", String(80), nullable=False),
    Column("digest", String(71), nullable=False),
    Column("status", String(20), nullable=False),
    Column("plan", LargeBinary, nullable=False),
    Column("health", LargeBinary, nullable=False),
    Column("state", LargeBinary, nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("created_by", String(120), nullable=False),
    Column("updated_at_s", Float, nullable=False),
)

outbox = Table(
    "outbox",
    metadata,
    Column("id", _COUNTING, primary_key=True, autoincrement=True),
    Column("rollout", String(120), nullable=False),
    Column("effect", LargeBinary, nullable=False),
    Column("device", String(63), nullable=False, server_default=""),
    Column("from_backup", Boolean, nullable=False, server_default=false()),
)
"""Effects of rollouts that are decided and saved, but not yet carried out. One for a device that is
``unheard`` waits for its word; one that a backup brought (``from_backup``) waits while its rollout
is paused."""

records = Table(
    "records",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("boot_id", String(80), primary_key=True),
    Column("cls", String(20), primary_key=True),
    Column("seq", BigInteger, primary_key=True, autoincrement=False),
    Column("seq_first", BigInteger, nullable=False),
    Column("name", String(80), nullable=False),
    Column("severity", String(10), nullable=False),
    Column("ts", Float, nullable=False),
    Column("received_at_s", Float, nullable=False),
    Column("model_version", String(128), nullable=False),
    Column("payload", LargeBinary, nullable=False),
    Index("records_by_time", "device", "cls", "ts"),
    Index("records_by_severity", "cls", "severity", "ts"),
    Index("records_by_receipt", "received_at_s"),
)
"""Telemetry, drift windows, events and update steps, as they came, once each, for as long as they
are kept (``fleet.manager.retention``)."""

committed = Table(
    "committed",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("boot_id", String(80), primary_key=True),
    Column("cls", String(20), primary_key=True),
    Column("ranges", Text, nullable=False),
    Column("seq_count", BigInteger, nullable=False),
)
"""Which sequence numbers are stored, as closed ranges in JSON; outlives pruned records."""

duplicates = Table(
    "duplicates",
    metadata,
    Column("device", String(63), primary_key=True),
    Column("cls", String(20), primary_key=True),
    Column("copies", BigInteger, nullable=False),
    Column("last_at_s", Float, nullable=False),
)
"""Records that came again; they were acknowledged again and not stored."""

findings = Table(
    "findings",
    metadata,
    Column("device", String(80), primary_key=True),
    Column("kind", String(40), primary_key=True),
    Column("cls", String(20), primary_key=True),
    Column("copies", BigInteger, nullable=False),
    Column("first_at_s", Float, nullable=False),
    Column("last_at_s", Float, nullable=False),
    Column("detail", Text, nullable=False),
)
"""What ingest refused, one row a device, kind and class; rows are bounded (``findings.py``)."""

log = Table(
    "log",
    metadata,
    Column("id", _COUNTING, primary_key=True, autoincrement=True),
    Column("at_s", Float, nullable=False),
    Column("kind", String(20), nullable=False),
    Column("subject", String(120), nullable=False),
    Column("severity", String(10), nullable=False),
    Column("text", Text, nullable=False),
    Index("log_by_subject", "kind", "subject"),
    Index("log_by_time", "at_s"),
)
"""What people may want to read later, for as long as it is kept (``fleet.manager.retention``)."""

audit = Table(
    "audit",
    metadata,
    Column("id", _COUNTING, primary_key=True, autoincrement=True),
    Column("at_s", Float, nullable=False),
    Column("who", String(120), nullable=False),
    Column("action", String(40), nullable=False),
    Column("subject", String(120), nullable=False),
    Column("reason", Text, nullable=False),
    Column("outcome", Text, nullable=False),
)
"""What operators ordered, refused orders too (``outcome`` is "done" or the refusal)."""

enrol_codes = Table(
    "enrol_codes",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("verifier", String(64), nullable=False),
    Column("device", String(63), nullable=False),
    Column("replaces", Boolean, nullable=False),
    Column("created_by", String(120), nullable=False),
    Column("created_at_s", Float, nullable=False),
    Column("expires_at_s", Float, nullable=False),
    Column("failures_count", BigInteger, nullable=False),
    Column("used_key", String(64), nullable=False),
    Column("used_device", String(63), nullable=False),
    Column("used_at_s", Float),
)
"""One-time codes. ``verifier`` is the public half of a key derived from the secret, which is
nowhere; ``device`` "" is for any new name; ``used_key`` "" is for a code that is not used."""

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("public_key", String(64), nullable=False),
    Column("issuer", String(40), nullable=False),
    Column("not_before_s", Float, nullable=False),
    Column("not_after_s", Float, nullable=False),
    Column("chain", Text, nullable=False),
    Column("revoked_at_s", Float),
    Index("certificates_by_device", "device"),
)
"""Every certificate that was issued; ``issuer`` is the issuer's key identifier."""

revoked_keys = Table(
    "revoked_keys",
    metadata,
    Column("public_key", String(64), primary_key=True),
    Column("device", String(63), nullable=False),
    Column("at_s", Float, nullable=False),
    Column("reason", Text, nullable=False),
)
"""Keys that are heard no more, whatever they show."""
