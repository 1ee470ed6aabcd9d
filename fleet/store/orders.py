"""Rows of signed orders, and the outbox of those that are still to be signed."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, and_, delete, func, insert, not_, or_, select, tuple_, update

from fleet.rollout.events import AskDevice, ReturnDevice, WithdrawDevice
from fleet.rollout.state import AT_REST, Status
from fleet.store.schema import devices, orders, outbox, rollouts

_PAUSED = (Status.PAUSED.value, Status.RETURN_PAUSED.value)

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
    from_backup: bool = False

    @property
    def number(self) -> tuple[int, int]:
        """(epoch, seq)."""
        return self.epoch, self.seq


class Pending(msgspec.Struct, frozen=True):
    """An effect in the outbox."""

    id: int
    rollout: str
    effect: DeviceEffect


def add_order(tx: Connection, row: OrderRow) -> None:
    """Store an order. The caller sets the device's ``desired_…`` with it."""
    tx.execute(insert(orders).values(**msgspec.structs.asdict(row)))


def current_order(tx: Connection, device: str) -> OrderRow | None:
    """The order in force for one device."""
    row = tx.execute(_CURRENT.where(devices.c.device == device)).mappings().one_or_none()
    return None if row is None else OrderRow(**row)


def current_orders(tx: Connection) -> list[OrderRow]:
    """The orders in force, by device."""
    rows = tx.execute(_CURRENT.order_by(orders.c.device)).mappings()
    return [OrderRow(**row) for row in rows]


def epoch_of(tx: Connection, device: str, seq: int) -> int | None:
    """The epoch of the order that bore this number; None where none of the fleet's did."""
    found = select(orders.c.epoch).where(orders.c.device == device, orders.c.seq == seq)
    return tx.scalar(found)


def drop_orders(tx: Connection, *, before_s: float, limit: int) -> int:
    """Delete at most ``limit`` superseded orders, the oldest of those signed before ``before_s``.

    What is in force stays, and so does what the newest rollout of a line, or one that is not at
    rest, gave: their devices may answer still.

    Returns:
        how many went.
    """
    newest = select(func.max(rollouts.c.number)).group_by(rollouts.c.line)
    at_rest = [status.value for status in AT_REST]
    open_ = select(rollouts.c.id).where(
        or_(rollouts.c.number.in_(newest), rollouts.c.status.not_in(at_rest))
    )
    key = tuple_(orders.c.device, orders.c.seq)
    oldest = (
        select(orders.c.device, orders.c.seq)
        .join(devices, devices.c.device == orders.c.device)
        .where(
            orders.c.issued_at_s < before_s,
            orders.c.seq < devices.c.desired_seq,
            orders.c.rollout.not_in(open_),
        )
        .order_by(orders.c.issued_at_s)
        .limit(limit)
    )
    return tx.execute(delete(orders).where(key.in_(oldest))).rowcount


def mark_restored(tx: Connection) -> None:
    """What is here comes from a backup: devices may have gone on since, under orders that this
    store does not know."""
    tx.execute(update(devices).values(unheard=True))
    tx.execute(update(orders).values(from_backup=True))
    tx.execute(update(outbox).values(from_backup=True))


def queue_effects(tx: Connection, rollout: str, effects: list[DeviceEffect]) -> None:
    """Save effects that have been decided, in order."""
    if effects:
        rows = [
            {
                "rollout": rollout,
                "device": effect.device,
                "effect": msgspec.json.encode(effect),
            }
            for effect in effects
        ]
        tx.execute(insert(outbox), rows)


def pending_effects(tx: Connection, limit: int) -> list[Pending]:
    """The oldest effects that are to be carried out now."""
    unheard = select(devices.c.device).where(devices.c.unheard)
    paused = select(rollouts.c.id).where(rollouts.c.status.in_(_PAUSED))
    waits = or_(
        outbox.c.device.in_(unheard), and_(outbox.c.from_backup, outbox.c.rollout.in_(paused))
    )
    rows = tx.execute(select(outbox).where(not_(waits)).order_by(outbox.c.id).limit(limit))
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
