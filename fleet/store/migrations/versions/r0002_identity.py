"""Enrolment codes, certificates, revoked keys."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the first tables."""
    op.create_table(
        "enrol_codes",
        sa.Column("id", sa.String(8), primary_key=True),
        sa.Column("verifier", sa.String(64), nullable=False),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("replaces", sa.Boolean, nullable=False),
        sa.Column("created_by", sa.String(120), nullable=False),
        sa.Column("created_at_s", sa.Float, nullable=False),
        sa.Column("expires_at_s", sa.Float, nullable=False),
        sa.Column("failures_count", sa.BigInteger, nullable=False),
        sa.Column("used_key", sa.String(64), nullable=False),
        sa.Column("used_device", sa.String(63), nullable=False),
        sa.Column("used_at_s", sa.Float),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("public_key", sa.String(64), nullable=False),
        sa.Column("issuer", sa.String(40), nullable=False),
        sa.Column("not_before_s", sa.Float, nullable=False),
        sa.Column("not_after_s", sa.Float, nullable=False),
        sa.Column("chain", sa.Text, nullable=False),
        sa.Column("revoked_at_s", sa.Float),
    )
    op.create_index("certificates_by_device", "certificates", ["device"])
    op.create_table(
        "revoked_keys",
        sa.Column("public_key", sa.String(64), primary_key=True),
        sa.Column("device", sa.String(63), nullable=False),
        sa.Column("at_s", sa.Float, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
    )
