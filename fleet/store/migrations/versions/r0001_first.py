"""The first tables."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_COUNTING = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    """From an empty database."""
    op.create_table(
        "meta",
        sa.Column("name", sa.String(64), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
    )
    op.create_table(
        "devices",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("hardware", sa.String(40), nullable=False),
        sa.Column("line", sa.String(40), nullable=False),
        sa.Column("agent_version", sa.String(64), nullable=False),
        sa.Column("enrolled_at_s", sa.Float, nullable=False),
        sa.Column("last_seen_at_s", sa.Float, nullable=False),
        sa.Column("online", sa.Boolean, nullable=False),
        sa.Column("connection_id", sa.String(80), nullable=False),
        sa.Column("connection_boot_id", sa.String(80), nullable=False),
        sa.Column("connection_seq", sa.BigInteger, nullable=False),
        sa.Column("connection_ts", sa.Float, nullable=False),
        sa.Column("desired_seq", sa.BigInteger, nullable=False),
        sa.Column("reported_epoch", sa.BigInteger, nullable=False),
        sa.Column("reported_seq", sa.BigInteger, nullable=False),
        sa.Column("state", sa.LargeBinary),
        sa.Column("state_at_s", sa.Float),
        sa.Column("telemetry", sa.LargeBinary),
        sa.Column("telemetry_ts", sa.Float),
    )
    op.create_table(
        "orders",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True),
        sa.Column("epoch", sa.BigInteger, nullable=False),
        sa.Column("rollout", sa.String(120), nullable=False),
        sa.Column("line", sa.String(40), nullable=False),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("envelope", sa.LargeBinary, nullable=False),
        sa.Column("issued_at_s", sa.Float, nullable=False),
        sa.Column("expires_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "rollouts",
        sa.Column("number", _COUNTING, primary_key=True, autoincrement=True),
        sa.Column("id", sa.String(120), nullable=False, unique=True),
        sa.Column("line", sa.String(40), nullable=False),
        sa.Column("version", sa.String(80), nullable=False),
        sa.Column("digest", sa.String(71), nullable=False),
        sa.Column("status", sa.String(20), nullable=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("health", sa.LargeBinary, nullable=False),
        sa.Column("state", sa.LargeBinary, nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("created_by", sa.String(120), nullable=False),
        sa.Column("updated_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _COUNTING, primary_key=True, autoincrement=True),
        sa.Column("rollout", sa.String(120), nullable=False),
        sa.Column("effect", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "records",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("boot_id", sa.String(80), primary_key=True),
        sa.Column("cls", sa.String(20), primary_key=True),
        sa.Column("seq", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seq_first", sa.BigInteger, nullable=False),
        sa.Column("name", sa.String(80), nullable=False),
        sa.Column("severity", sa.String(10), nullable=False),
        sa.Column("ts", sa.Float, nullable=False),
        sa.Column("received_at_s", sa.Float, nullable=False),
        sa.Column("model_version", sa.String(128), nullable=False),
        sa.Column("payload", sa.LargeBinary, nullable=False),
    )
    op.create_index("records_by_time", "records", ["device", "cls", "ts"])
    op.create_index("records_by_severity", "records", ["cls", "severity", "ts"])
    op.create_table(
        "committed",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("boot_id", sa.String(80), primary_key=True),
        sa.Column("cls", sa.String(20), primary_key=True),
        sa.Column("ranges", sa.Text, nullable=False),
        sa.Column("seq_count", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "duplicates",
        sa.Column("device", sa.String(63), primary_key=True),
        sa.Column("cls", sa.String(20), primary_key=True),
        sa.Column("copies", sa.BigInteger, nullable=False),
        sa.Column("last_at_s", sa.Float, nullable=False),
    )
    op.create_table(
        "findings",
        sa.Column("device", sa.String(80), primary_key=True),
        sa.Column("kind", sa.String(40), primary_key=True),
        sa.Column("cls", sa.String(20), primary_key=True),
        sa.Column("copies", sa.BigInteger, nullable=False),
        sa.Column("first_at_s", sa.Float, nullable=False),
        sa.Column("last_at_s", sa.Float, nullable=False),
        sa.Column("detail", sa.Text, nullable=False),
    )
    op.create_table(
        "log",
        sa.Column("id", _COUNTING, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("kind", sa.String(20), nullable=False),
        sa.Column("subject", sa.String(120), nullable=False),
        sa.Column("severity", sa.String(10), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
    )
    op.create_index("log_by_subject", "log", ["kind", "subject"])
    op.create_table(
        "audit",
        sa.Column("id", _COUNTING, primary_key=True, autoincrement=True),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("who", sa.String(120), nullable=False),
        sa.Column("action", sa.String(40), nullable=False),
        sa.Column("subject", sa.String(120), nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("outcome", sa.Text, nullable=False),
    )


def downgrade() -> None:
    """Back to an empty database."""
    for table in (
        "audit",
        "log",
        "findings",
        "duplicates",
        "committed",
        "records",
        "outbox",
        "rollouts",
        "orders",
        "devices",
        "meta",
    ):
        op.drop_table(table)
