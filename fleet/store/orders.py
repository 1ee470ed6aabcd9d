"""Rows of signed orders, and the outbox of those that are still to be signed."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, and_, delete, insert, select

from fleet.rollout.events import AskDevice, ReturnDevice, WithdrawDevice
from fleet.store.schema import devices, orders, outbox

DeviceEffect = AskDevice | ReturnDevice | WithdrawDevice


class OrderRow(msgspec.Struct, frozen=True, kw_only=True):
    """One ``desired`` as it was signed; ``envelope`` is empty for a withdrawal without one."""

    device: str
    seq: int
    epoch: int
    rollout: str
    line: str
    version: str
    digest: str
    envelope: bytes
    issued_at_s: float
    expires_at_s: float


class Pending(msgspec.Struct, frozen=True):
    """An effect in the outbox."""

    id: int
    rollout: str
    effect: DeviceEffect


def add_order(tx: Connection, row: OrderRow) -> None:
    """Store an order. The caller sets the device's ``desired_seq`` with it."""
    tx.execute(insert(orders).values(**msgspec.structs.asdict(row)))


def current_order(tx: Connection, device: str) -> OrderRow | None:
    """The order in force for one device."""
    row = tx.execute(_CURRENT.where(devices.c.device == device)).mappings().one_or_none()
    return None if row is None else OrderRow(**row)


def current_orders(tx: Connection) -> list[OrderRow]:
    """The orders in force, by device."""
    rows = tx.execute(_CURRENT.order_by(orders.c.device)).mappings()
    return [OrderRow(**row) for row in rows]


def queue_effects(tx: Connection, rollout: str, effects: list[DeviceEffect]) -> None:
    """Save effects that have been decided, in order."""
    if effects:
        rows = [{"rollout": rollout, "effect": msgspec.json.encode(effect)} for effect in effects]
        tx.execute(insert(outbox), rows)


def pending_effects(tx: Connection, limit: int) -> list[Pending]:
    """The oldest effects that are not carried out."""
    rows = tx.execute(select(outbox).order_by(outbox.c.id).limit(limit))
    return [
        Pending(row.id, row.rollout, msgspec.json.decode(row.effect, type=DeviceEffect))
        for row in rows
    ]


def forget_effects(tx: Connection, pending: list[Pending]) -> None:
    """Take carried-out effects out of the outbox."""
    tx.execute(delete(outbox).where(outbox.c.id.in_([item.id for item in pending])))


_CURRENT = select(orders).join(
    devices, and_(devices.c.device == orders.c.device, devices.c.desired_seq == orders.c.seq)
)
