"""What the spool has to report: it never looks healthy while it loses or refuses data."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
from msgspec.structs import replace


class Finding(msgspec.Struct, frozen=True):
    """One kind of trouble and how often it came.

    Attributes:
        code: ``quarantined``, ``storage_full``, ``storage_io``, ``record_damaged``,
            ``ledger_failed``.
        message: of the latest time.
        count: times seen since the spool was opened.
        first_ts, last_ts: unix seconds.
        active: still so; a full disk that has room again is not.
    """

    code: str
    message: str
    count: int
    first_ts: float
    last_ts: float
    active: bool


class Findings:
    """Findings by code: bounded, however often something goes wrong."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._by_code: dict[str, Finding] = {}

    def note(self, code: str, message: str) -> None:
        """Record that it happened, now."""
        now = self._clock()
        known = self._by_code.get(code)
        self._by_code[code] = Finding(
            code=code,
            message=message,
            count=known.count + 1 if known else 1,
            first_ts=known.first_ts if known else now,
            last_ts=now,
            active=True,
        )

    def resolve(self, *codes: str) -> None:
        """Mark what is over; it stays listed."""
        for code in codes:
            known = self._by_code.get(code)
            if known is not None and known.active:
                self._by_code[code] = replace(known, active=False)

    def listed(self) -> list[Finding]:
        """All findings since the spool was opened, oldest kind first."""
        return list(self._by_code.values())
