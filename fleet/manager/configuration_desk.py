"""Sends what is wanted of devices' settings: when it changes, ages, or the broker comes back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from edge_contract.errors import WherryError
from fleet.clock import Clock
from fleet.manager.configurations import Configurations
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.publisher import Publisher
from fleet.manager.rollout_desk import RolloutDesk
from fleet.store import Store
from fleet.store.configurations import ConfigurationRow, all_configurations


class ConfigurationDesk:
    """On the loop only.

    Args:
        configurations: signs and stores.
        store: what is wanted.
        desk: whose transactions these are.
        publisher: sends it.
        facts: where trouble is told.
        feed: what people see.
        clock: wall.
    """

    def __init__(
        self,
        configurations: Configurations,
        store: Store,
        desk: RolloutDesk,
        publisher: Publisher,
        facts: Facts,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._configurations = configurations
        self._store = store
        self._desk = desk
        self._publisher = publisher
        self._facts = facts
        self._feed = feed
        self._clock = clock

    def give(self, rows: Iterable[ConfigurationRow]) -> None:
        """Publish what is wanted of devices' settings, once it is committed."""
        rows = list(rows)
        self._publisher.configurations(rows)
        for row in rows:
            self._feed.put(self._clock.wall_s(), "device", row.device)

    def give_all(self) -> None:
        """Retain all of it once more: the broker may have forgotten everything."""
        with self._store.read() as tx:
            wanted = list(all_configurations(tx).values())
        self._publisher.configurations(wanted)

    def renew(self, replaced: Sequence[str]) -> None:
        """Sign anew for new hardware under an old name."""
        names = list(replaced)
        self.give(
            self._desk.transact(lambda turn: self._configurations.renew(turn.tx, names, turn.now_s))
        )

    def renew_due(self) -> None:
        """Sign anew what is old, or by a director key that was revoked."""
        try:
            self.give(
                self._desk.transact(
                    lambda turn: self._configurations.renew_due(turn.tx, turn.now_s)
                )
            )
        except WherryError as error:
            self._facts.trouble("signing", error.message)
