"""What the manager does when its connection to the broker comes, goes and comes back."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from fleet.clock import Clock
from fleet.identity.issuers import Issuers
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.configuration_desk import ConfigurationDesk
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.publisher import Publisher
from fleet.manager.roll_call import RollCall
from fleet.manager.rollout_desk import RolloutDesk
from fleet.manager.rollouts import RolloutTurn
from fleet.rollout.events import DeviceOffline
from fleet.store import Store, devices, orders

_log = logging.getLogger(__name__)


class BrokerSession:
    """On the loop only.

    Args:
        address: the broker, for people.
        store: orders in force, and who was online.
        issuers: the fleet's CA, for devices that hold nothing but a code.
        publisher: gives the broker what is retained.
        desk: is told of devices that are gone.
        configurations: gives the broker what is wanted of settings.
        facts: where trouble is told.
        feed: what people see.
        clock: wall and monotonic.
    """

    def __init__(
        self,
        address: BrokerAddress,
        store: Store,
        issuers: Issuers,
        publisher: Publisher,
        desk: RolloutDesk,
        configurations: ConfigurationDesk,
        facts: Facts,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._address = address
        self._store = store
        self._issuers = issuers
        self._publisher = publisher
        self._desk = desk
        self._configurations = configurations
        self._facts = facts
        self._feed = feed
        self._clock = clock
        self._roll_call = RollCall()

    def connected(self, connection: int) -> None:
        """The broker may have forgotten everything: give it all that is retained, once more.

        Args:
            connection: counted from 1 over the life of the process.
        """
        now_s = self._clock.wall_s()
        self._facts.reconnects_count = connection - 1
        self._facts.connected_since_s = now_s
        self._facts.well("broker")
        _log.info("connected to the broker at %s", self._address)
        self._publisher.metadata(anew=True)
        if self._issuers.installed:
            self._publisher.authority(self._issuers.ca_pem)
        with self._store.read() as tx:
            current = orders.current_orders(tx)
            online = [row.device for row in devices.list_devices(tx) if row.online]
        self._publisher.orders(current)
        self._configurations.give_all()
        self._roll_call.begin(online, self._clock.monotonic_s())
        self._feed.put(now_s, "broker", str(self._address), "connected to the broker")

    def disconnected(self, reason: str) -> None:
        """Nothing that was heard over this connection counts any longer."""
        self._roll_call.lost()
        problem = f"no connection to the broker: {reason}"
        if self._facts.trouble("broker", problem):
            self._feed.put(self._clock.wall_s(), "broker", str(self._address), problem)
        self._facts.connected_since_s = None

    def heard(self, names: Iterable[str]) -> None:
        """These devices are there."""
        self._roll_call.heard(names)

    def mark_missing(self) -> None:
        """Devices that were there before, and have not been heard in time, are offline."""
        gone = self._roll_call.missing(self._clock.monotonic_s())
        if not gone:
            return

        def mark(turn: RolloutTurn) -> None:
            for device in gone:
                row = devices.get_device(turn.tx, device)
                if row is not None and row.online:
                    devices.change_device(turn.tx, device, online=False)
                    turn.feed(row.line, DeviceOffline(now_s=turn.now_s, device=device))

        self._desk.transact(mark)
        for device in gone:
            self._feed.put(self._clock.wall_s(), "device", device)
