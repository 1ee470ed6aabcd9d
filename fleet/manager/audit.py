"""Writes down what operators ordered: signed, in the repository; refusals in the store as well."""

from __future__ import annotations

from fleet.clock import Clock
from fleet.repository.tuf_repository import Repository
from fleet.store import Store, journal


class Audit:
    """On the loop only.

    Args:
        repository: keeps the signed log.
        store: what the console shows.
        clock: wall.
    """

    def __init__(self, repository: Repository, store: Store, clock: Clock) -> None:
        self._repository = repository
        self._store = store
        self._clock = clock

    def record(self, who: str, action: str, subject: str, detail: str) -> None:
        """Append to the signed audit log.

        Raises:
            FleetError: the audit key is missing.
        """
        with self._repository.archive.exclusive():
            self._repository.archive.record(who, action, subject, detail)

    def record_refusal(self, who: str, action: str, subject: str, reason: str, why: str) -> None:
        """Put an order that was refused into both.

        Raises:
            FleetError: the audit key is missing.
        """
        with self._store.write() as tx:
            now_s = self._clock.wall_s()
            journal.add_audit(tx, now_s, who, action, subject, reason, f"refused: {why}")
        self.record(who, f"{action} (refused)", subject, f"{reason} {why}".strip())
