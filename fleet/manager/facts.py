"""How the manager itself is: written by its loop, read by anybody."""

from __future__ import annotations

import logging

from sqlalchemy.exc import OperationalError

_log = logging.getLogger(__name__)


class Facts:
    """Connection, lag, and what is wrong just now, at most one sentence for each part.

    Attributes:
        connected_since_s: unix seconds of the last CONNACK; None while there is no connection.
        reconnects_count: CONNACKs after the first.
        ingest_lag_s: age of the oldest message of the batch committed last.
        problem: everything that is wrong now, "" when nothing is.
    """

    def __init__(self, started_at_s: float) -> None:
        self.started_at_s = started_at_s
        self.connected_since_s: float | None = None
        self.reconnects_count = 0
        self.ingest_lag_s = 0.0
        self.problem = ""
        self._problems: dict[str, str] = {}

    def trouble(self, part: str, problem: str) -> bool:
        """``part`` has a problem; whether it is a new one. A new one is logged."""
        new = self._problems.get(part) != problem
        if new:
            _log.warning("%s", problem)
            self._problems[part] = problem
            self.problem = "; ".join(self._problems.values())
        return new

    def store_refuses(self, error: OperationalError) -> None:
        """The database does not do what it is asked: a full disk, say."""
        self.trouble("store", f"the store refuses: {error.orig}")

    def well(self, part: str) -> None:
        """``part`` has no problem (any more)."""
        if self._problems.pop(part, None):
            self.problem = "; ".join(self._problems.values())
