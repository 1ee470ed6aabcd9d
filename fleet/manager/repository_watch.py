"""Notices what is published: other processes publish, so the repository is polled."""

from __future__ import annotations

from edge_contract.errors import WherryError
from fleet.clock import Clock
from fleet.manager.catalogue import Catalogue
from fleet.manager.configuration_desk import ConfigurationDesk
from fleet.manager.director import Director
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.publisher import Publisher
from fleet.manager.rollout_desk import RolloutDesk
from fleet.repository.tuf_repository import Repository


class RepositoryWatch:
    """On the loop only.

    Args:
        repository: whose timestamp is kept fresh.
        catalogue: what of it is known.
        director: its key may have been replaced.
        publisher: tells devices the new metadata.
        desk: signs orders anew.
        configurations: signs settings anew.
        facts: where trouble is told.
        feed: what people see.
        clock: wall.
    """

    def __init__(
        self,
        repository: Repository,
        catalogue: Catalogue,
        director: Director,
        publisher: Publisher,
        desk: RolloutDesk,
        configurations: ConfigurationDesk,
        facts: Facts,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._repository = repository
        self._catalogue = catalogue
        self._director = director
        self._publisher = publisher
        self._desk = desk
        self._configurations = configurations
        self._facts = facts
        self._feed = feed
        self._clock = clock

    def begin(self) -> None:
        """Open the repository, making it first where there is none, and read it.

        Raises:
            FleetError, TrustError: it cannot be read.
        """
        self._repository.initialise()
        self._load()

    def poll(self) -> None:
        """Notice what was published meanwhile."""
        if self._load():
            self._director.look_again()
            self._publisher.metadata()
            for line in self._catalogue.edition.metadata:
                self._feed.put(self._clock.wall_s(), "repository", line)
            self._renew()

    def hourly(self) -> None:
        """Sign a fresh timestamp where the old one ages, and the orders that are due."""
        try:
            self._repository.refresh_timestamp()
        except WherryError as error:
            self._facts.trouble("signing", error.message)
            return
        self._renew()

    def _renew(self) -> None:
        self._desk.renew_due()
        self._configurations.renew_due()

    def _load(self) -> bool:
        try:
            changed = self._catalogue.reload()
        except WherryError as error:
            self._facts.trouble("repository", error.message)
            return False
        self._facts.well("repository")
        return changed
