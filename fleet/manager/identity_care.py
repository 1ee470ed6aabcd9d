"""What the manager does about certificates by itself, and what it writes down about floods."""

from __future__ import annotations

from collections.abc import Mapping

from edge_contract.errors import WherryError
from fleet.clock import Clock
from fleet.identity.issuers import Issuers
from fleet.manager.facts import Facts
from fleet.store import Store, identity, journal


class IdentityCare:
    """On the loop only.

    Args:
        issuers: the fleet's certificates.
        store: what is revoked.
        facts: where trouble is told.
        clock: wall.
    """

    def __init__(self, issuers: Issuers, store: Store, facts: Facts, clock: Clock) -> None:
        self._issuers = issuers
        self._store = store
        self._facts = facts
        self._clock = clock

    def hourly(self) -> None:
        """Take up an issuer that was installed meanwhile, and keep the own certificate fresh."""
        now_s = self._clock.wall_s()
        try:
            self._issuers.reload()
            if self._issuers.installed:
                self._issuers.renew_own(now_s)
                self.write_crl()
        except (WherryError, OSError) as error:
            self._facts.trouble("identity", str(error))
            return
        trouble = self._issuers.trouble(now_s)
        if trouble:
            self._facts.trouble("identity", trouble)
        else:
            self._facts.well("identity")

    def write_crl(self) -> None:
        """Write the revocation lists anew, from the store."""
        if not self._issuers.installed:
            return
        now_s = self._clock.wall_s()
        with self._store.read() as tx:
            revoked = identity.revoked_certificates(tx, now_s)
        self._issuers.write_crl(revoked, now_s=now_s)

    def locked_out(self) -> list[str]:
        """Devices whose every certificate is revoked; any thread."""
        with self._store.read() as tx:
            return identity.locked_out(tx, self._clock.wall_s())

    def note_floods(self, dropped: Mapping[tuple[str, str], int]) -> None:
        """One finding for each (sender, why) whose messages were dropped unread."""
        if not dropped:
            return
        with self._store.write() as tx:
            for (sender, why), count in dropped.items():
                journal.add_finding(
                    tx,
                    device=sender,
                    kind="flood",
                    cls=why,
                    detail=f"{count} messages were dropped unread: {why}",
                    now_s=self._clock.wall_s(),
                )
