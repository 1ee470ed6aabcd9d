"""Reminds people of what they have to sign before it runs out: nobody looks by himself for a year.

What the manager's own keys sign it renews (``RepositoryWatch``); this is about the rest.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from itertools import groupby

from edge_contract.errors import WherryError
from fleet.clock import Clock
from fleet.identity.authority import DAY_S
from fleet.identity.certificates import life_of
from fleet.identity.issuers import Issuers
from fleet.repository.archive import Archive
from fleet.repository.key_status import START_MANAGER, RoleStatus, key_status, local_date
from fleet.views.manager import Reminder

CA_REMIND_S = 365 * DAY_S
"""A new CA means that every device is enrolled anew."""
_NAMED_MAX = 6

_log = logging.getLogger(__name__)


def reminders_due(roles: Sequence[RoleStatus], issuers: Issuers, now_s: float) -> list[Reminder]:
    """Everything that people have to sign soon, or should have, what runs out first first.

    Args:
        roles: ``key_status`` of the signed metadata.
        issuers: the fleet's certificates.
        now_s: unix seconds.
    """
    found = [*_signatures(roles, now_s), *_certificates(issuers, now_s)]
    return sorted(found, key=lambda reminder: reminder.expires_s)


class Reminders:
    """On the loop, but for its attributes, which any thread may read.

    Args:
        archive: the signed metadata.
        issuers: the fleet's certificates.
        clock: wall and monotonic.

    Attributes:
        due: what people have to sign soon; replaced whole.
        signed_until_s: when the first signature runs out, of the manager or of people.
    """

    def __init__(self, archive: Archive, issuers: Issuers, clock: Clock) -> None:
        self._archive = archive
        self._issuers = issuers
        self._clock = clock
        self._logged_s: dict[str, float] = {}
        self.due: list[Reminder] = []
        self.signed_until_s: float | None = None

    def hourly(self) -> None:
        """Look again, and write what is due into the log: each reminder once a day."""
        now_s = self._clock.monotonic_s()
        try:
            roles = key_status(self._archive)
        except WherryError:
            return  # the repository's trouble is told where it is polled
        self.signed_until_s = min(role.expires_s for role in roles)
        self.due = reminders_due(roles, self._issuers, self._clock.wall_s())
        for reminder in self.due:
            if now_s - self._logged_s.get(reminder.command, -DAY_S) >= DAY_S:
                self._logged_s[reminder.command] = now_s
                _log.warning("%s; next: %s", reminder.text, reminder.command)


def _signatures(roles: Sequence[RoleStatus], now_s: float) -> list[Reminder]:
    of_people = [row for row in roles if row.action not in ("", START_MANAGER)]
    due = sorted(of_people, key=lambda row: row.action)
    found = []
    for command, group in groupby(due, key=lambda row: row.action):
        rows = list(group)
        names = [row.role for row in rows[:_NAMED_MAX]]
        if len(rows) > _NAMED_MAX:
            names.append(f"{len(rows) - _NAMED_MAX} more")
        first_s = min(row.expires_s for row in rows)
        what = f"the signatures of {', '.join(names)}"
        found.append(_reminder(what, first_s, now_s, command))
    return found


def _certificates(issuers: Issuers, now_s: float) -> list[Reminder]:
    found = []
    if issuers.ca is not None:
        _, ends_s = life_of(issuers.ca)
        if ends_s - now_s < CA_REMIND_S:
            what = "the CA certificate, and all that it signed"
            found.append(_reminder(what, ends_s, now_s, "edge-fleet ca init"))
    if issuers.issuers and issuers.issuers[-1].third_left(now_s):
        what = "the issuer certificate, and its revocation list"
        ends_s = issuers.issuers[-1].until_s
        found.append(_reminder(what, ends_s, now_s, "edge-fleet ca request --out issuer.csr"))
    return found


def _reminder(what: str, expires_s: float, now_s: float, command: str) -> Reminder:
    left_days = (expires_s - now_s) / DAY_S
    date = local_date(expires_s)
    when = f"{left_days:.0f} days left, until {date}" if left_days > 0 else f"expired on {date}"
    return Reminder(
        text=f"{when}: {what}", expires_s=expires_s, left_days=left_days, command=command
    )
