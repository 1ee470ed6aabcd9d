"""A manager in a process of its own that kills itself (SIGKILL) at one chosen moment.

``python -m tests.manager.dying_manager STATE_DIR PORT MOMENT [LINE VERSION]``: with a line and a
version it also starts a rollout of that version.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from fleet.clock import SystemClock
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.connection import Inbound
from fleet.manager.intake import Taken
from fleet.manager.loop import Manager
from fleet.manager.publisher import Publisher
from fleet.manager.rollout_desk import RolloutDesk
from fleet.repository.tuf_repository import Repository
from fleet.service import FleetService, RolloutOrder
from fleet.store import open_store, orders
from fleet.store.orders import OrderRow
from tests.manager.simulated_device import FLEET

MOMENTS = ("before the commit", "after the commit", "after the effects", "after the order")


class DyingManager(Manager):
    moment = ""

    def _commit(self, batch: list[Inbound]) -> Taken:
        if self.moment == "before the commit" and _has_records(batch):
            with self.store.write() as tx:
                page = self._intake.open(tx, self._desk.open(tx))
                for message in batch:
                    page.take(message)
                page.write()
                die()
        return super()._commit(batch)

    def _after_commit(self, batch: list[Inbound], taken: Taken) -> None:
        if self.moment == "after the commit" and _has_records(batch):
            die()
        super()._after_commit(batch, taken)


class DyingDesk(RolloutDesk):
    def perform(self) -> None:
        with self._store.read() as tx:
            waiting = orders.pending_effects(tx, 1)
        if waiting:
            die()
        super().perform()


class DyingPublisher(Publisher):
    def orders(self, issued: Iterable[OrderRow]) -> None:
        issued = list(issued)
        if issued:
            die()
        super().orders(issued)


def _has_records(batch: list[Inbound]) -> bool:
    return any("/telemetry/" in message.topic for message in batch)


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    state, port, moment, *rollout = sys.argv[1:]
    assert moment in MOMENTS
    clock = SystemClock()
    manager = DyingManager(
        fleet=FLEET,
        store=open_store(Path(state) / "fleet.db", fleet=FLEET),
        repository=Repository(Path(state), FLEET, clock.wall_s),
        address=BrokerAddress("127.0.0.1", int(port)),
        clock=clock,
    )
    manager.moment = moment
    if moment == "after the effects":
        manager._desk.__class__ = DyingDesk
    if moment == "after the order":
        manager._publisher.__class__ = DyingPublisher
    manager.start()
    while not manager.connected:
        time.sleep(0.01)
    print("connected", flush=True)
    if rollout:
        order = RolloutOrder(line=rollout[0], version=rollout[1])
        FleetService(manager).start_rollout(order, who="ann")
    time.sleep(60)


if __name__ == "__main__":
    main()
