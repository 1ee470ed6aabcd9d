"""Records by when they were received, so that the oldest are found."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the tables of configurations."""
    op.create_index("records_by_receipt", "records", ["received_at_s"])
