"""Carries out what rollouts decided: signs orders, stores them, and says what to publish.

The store is written before anything is published, so what devices see is never ahead of it; what
was stored and not published is published on the next CONNACK.
"""

from __future__ import annotations

from sqlalchemy import Connection

from fleet.manager.catalogue import Catalogue
from fleet.manager.director import ORDER_LIFE_S, Director, next_seq
from fleet.manager.rollouts import RolloutTurn, health_of, window_of
from fleet.rollout.events import AskDevice
from fleet.rollout.state import BAD, IN_FLIGHT, DeviceRecord, Phase
from fleet.store import devices, journal, orders
from fleet.store.devices import DeviceRow
from fleet.store.orders import OrderRow, Pending

_BATCH = 500


class Orders:
    """Signs and stores orders.

    Args:
        director: signs.
        catalogue: which digest is which version.
    """

    def __init__(self, director: Director, catalogue: Catalogue) -> None:
        self._director = director
        self._catalogue = catalogue

    def perform(self, tx: Connection, turn: RolloutTurn) -> list[OrderRow]:
        """Carry out the oldest effects of the outbox.

        Returns:
            the orders to publish, in order; empty when the outbox is.

        Raises:
            FleetError: the director key is missing; nothing of the outbox is lost.
        """
        pending = orders.pending_effects(tx, _BATCH)
        issued = [self._issue(tx, turn, item) for item in pending]
        if pending:
            orders.forget_effects(tx, pending)
        return [order for order in issued if order is not None]

    def renew(self, tx: Connection, turn: RolloutTurn, device: str) -> list[OrderRow]:
        """Sign a device's order anew, for a key that has changed; empty where it has none."""
        order, row = orders.current_order(tx, device), devices.get_device(tx, device)
        if order is None or row is None or not order.envelope or row.line != order.line:
            return []
        return [self._sign(tx, turn, row, order.rollout, order.version, order.digest)]

    def renew_due(self, tx: Connection, turn: RolloutTurn) -> list[OrderRow]:
        """Sign anew the orders that have less than half of their life left, and those by a key or
        of an epoch that is no longer in force. Not for devices that may have gone on since a backup
        that was restored: their numbers are not known before they say them."""
        renewed = []
        for order in orders.current_orders(tx):
            if not order.envelope or _is_given_up(turn, order):
                continue
            fresh = order.expires_at_s - turn.now_s > ORDER_LIFE_S / 2
            if fresh and self._director.signed(order):
                continue
            device = devices.get_device(tx, order.device)
            if device is None or device.line != order.line or device.unheard:
                continue
            if device.reported > order.number and not _is_waited_for(turn, order):
                # What came after is not to be undone by a signature.
                continue
            renewed.append(self._sign(tx, turn, device, order.rollout, order.version, order.digest))
        return renewed

    def epoch_problem(self, tx: Connection) -> str:
        """What is wrong where devices obey a later epoch than offline keys signed here; "" where
        all is well. They refuse whatever this manager orders."""
        told = [row for row in devices.list_devices(tx) if row.reported_epoch]
        ahead = [row for row in told if row.reported_epoch > self._director.epoch]
        if not ahead:
            return ""
        return (
            f"{len(ahead)} devices ({ahead[0].device} …) obey epoch"
            f" {max(row.reported_epoch for row in ahead)}, this fleet's keys have signed"
            f" {self._director.epoch}, so they refuse its orders: was a backup restored? next:"
            " edge-fleet key epoch"
        )

    def _issue(self, tx: Connection, turn: RolloutTurn, item: Pending) -> OrderRow | None:
        effect = item.effect
        device = devices.get_device(tx, effect.device)
        if device is None:
            return None
        version = self._catalogue.version_of(device.line, effect.digest)
        if version:
            return self._sign(tx, turn, device, item.rollout, version, effect.digest)
        if effect.digest:
            what = "ask it for" if isinstance(effect, AskDevice) else "return it to"
            journal.add_log(
                tx,
                turn.now_s,
                "rollout",
                item.rollout,
                f"{effect.device}: cannot {what} {effect.digest[:19]}…, which is not published"
                f" in line {device.line}; its order is withdrawn instead",
                "warning",
            )
        return self._withdraw(tx, turn, device, item.rollout)

    def _sign(
        self,
        tx: Connection,
        turn: RolloutTurn,
        device: DeviceRow,
        rollout: str,
        version: str,
        digest: str,
    ) -> OrderRow:
        order = self._director.order(
            device,
            rollout=rollout,
            version=version,
            digest=digest,
            health=health_of(tx, rollout),
            window=window_of(tx, rollout, digest),
            timestamp_version=self._catalogue.edition.timestamp_version,
            now_s=turn.now_s,
        )
        return self._store(tx, turn, order)

    def _withdraw(
        self, tx: Connection, turn: RolloutTurn, device: DeviceRow, rollout: str
    ) -> OrderRow:
        """No order at all; its number keeps late answers to the old one apart."""
        order = OrderRow(
            device=device.device,
            seq=next_seq(device, self._director.epoch),
            epoch=self._director.epoch,
            rollout=rollout,
            line=device.line,
            version="",
            digest="",
            envelope=b"",
            issued_at_s=turn.now_s,
            expires_at_s=turn.now_s,
        )
        return self._store(tx, turn, order)

    def _store(self, tx: Connection, turn: RolloutTurn, order: OrderRow) -> OrderRow:
        orders.add_order(tx, order)
        devices.change_device(tx, order.device, desired_epoch=order.epoch, desired_seq=order.seq)
        turn.signed(order.line, order.device, order.number)
        return order


def _is_given_up(turn: RolloutTurn, order: OrderRow) -> bool:
    """Whether the device has failed at this order: signed anew, it would begin the trial again."""
    record = _record(turn, order)
    return record is not None and record.phase in BAD


def _is_waited_for(turn: RolloutTurn, order: OrderRow) -> bool:
    """Whether the device, although it took up a higher number, owes an answer to this order.

    Then it was ordered by hand meanwhile, which bars none of the fleet's orders (ADR 0030). But
    after what a backup brought there may be orders of the fleet that are newer.
    """
    record = _record(turn, order)
    waits = record is not None and (record.phase in IN_FLIGHT or record.phase is Phase.RETURNING)
    return waits and not order.from_backup


def _record(turn: RolloutTurn, order: OrderRow) -> DeviceRecord | None:
    """The device in the order's rollout; None where that is not the newest of its line."""
    state = turn.newest(order.line)
    if state is None or state.plan.rollout_id != order.rollout:
        return None
    return state.devices.get(order.device)
