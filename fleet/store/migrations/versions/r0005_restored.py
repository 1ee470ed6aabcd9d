"""What a restored backup has to know, epochs beside numbers of orders, and lines by their age."""

from __future__ import annotations

import json
from typing import Any

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """From the index of records by receipt."""
    no, zero = sa.false(), sa.text("0")
    op.add_column(
        "devices", sa.Column("desired_epoch", sa.BigInteger, nullable=False, server_default=zero)
    )
    op.add_column("devices", sa.Column("unheard", sa.Boolean, nullable=False, server_default=no))
    op.add_column("orders", sa.Column("from_backup", sa.Boolean, nullable=False, server_default=no))
    op.add_column("outbox", sa.Column("device", sa.String(63), nullable=False, server_default=""))
    op.add_column("outbox", sa.Column("from_backup", sa.Boolean, nullable=False, server_default=no))
    op.create_index("orders_by_time", "orders", ["issued_at_s"])
    op.create_index("log_by_time", "log", ["at_s"])
    op.execute(
        "UPDATE devices SET desired_epoch = COALESCE((SELECT orders.epoch FROM orders"
        " WHERE orders.device = devices.device AND orders.seq = devices.desired_seq), 0)"
    )
    _number_with_epochs(op.get_bind())


def _number_with_epochs(tx: sa.Connection) -> None:
    """Numbers in stored rollouts were without their epoch: it is that of the order in force."""
    epochs: dict[str, int] = {
        name: max(desired, reported)
        for name, desired, reported in tx.execute(
            sa.text("SELECT device, desired_epoch, reported_epoch FROM devices")
        )
    }
    rollouts = sa.table(
        "rollouts",
        sa.column("number", sa.BigInteger),
        sa.column("plan", sa.LargeBinary),
        sa.column("state", sa.LargeBinary),
    )
    for row in tx.execute(sa.select(rollouts)).all():
        plan, state = json.loads(row.plan), json.loads(row.state)
        for named in (plan, state["plan"]):
            _number_plan(named, epochs)
        for name, record in state["devices"].items():
            epoch = epochs.get(name, 0)
            record["number"] = [epoch, record.pop("seq")]
            record["floor"] = [epoch, record["floor"]]
        tx.execute(
            sa.update(rollouts)
            .where(rollouts.c.number == row.number)
            .values(plan=json.dumps(plan).encode(), state=json.dumps(state).encode())
        )


def _number_plan(plan: dict[str, Any], epochs: dict[str, int]) -> None:
    for device in plan["devices"]:
        device["desired_epoch"] = epochs.get(device["device"], 0)
