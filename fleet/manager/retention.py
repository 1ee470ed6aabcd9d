"""Lets go of what is old, a few rows at a time, so that a fleet does not fill the disk.

Records of devices, lines of the log, and orders that were superseded go. What is in force, what the
newest rollout of a line gave, and the audit of operators' orders stay.

What is acknowledged stays acknowledged: the committed numbers of a stream outlive its records, so a
record that comes once more after years is still a repeat, and never stored twice. "Old" counts from
the receipt, by the manager's clock: what a device held back for months is kept as long as the rest.
Nothing is dropped in the first hour, nor in the hour after that clock was set.
"""

from __future__ import annotations

from fleet.clock import Clock
from fleet.store import Store, journal, orders, records

DAY_S = 86_400.0
DEFAULT_S = 90 * DAY_S
_BATCH = 500
"""Rows of a table that one transaction drops: records take 35 ms in a store of 480 MB, measured on
two shared cores."""
_REST_S = 60.0
"""How long to rest when nothing old is left."""
_STEADY_S = 3600.0
"""How long the clock must have gone steadily before anything is dropped for its age: a machine that
starts in 2038 by mistake has time to be set right."""
_JUMP_S = 60.0


class Retention:
    """On the loop only, which is the store's one writer.

    Args:
        store: whose rows.
        clock: wall and monotonic.
        kept_s: for how long a row is kept; 0 for ever.
    """

    def __init__(self, store: Store, clock: Clock, kept_s: float) -> None:
        self._store = store
        self._clock = clock
        self._kept_s = kept_s
        self._due_s = clock.monotonic_s() + _STEADY_S
        self._offset_s = clock.wall_s() - clock.monotonic_s()

    def tick(self) -> int:
        """Drop one batch where any is due.

        Returns:
            how many rows went.
        """
        now_s, wall_s = self._clock.monotonic_s(), self._clock.wall_s()
        if abs(wall_s - now_s - self._offset_s) > _JUMP_S:
            self._offset_s, self._due_s = wall_s - now_s, now_s + _STEADY_S
        if not self._kept_s or now_s < self._due_s:
            return 0
        before_s = wall_s - self._kept_s
        with self._store.write() as tx:
            gone = [
                drop(tx, before_s=before_s, limit=_BATCH)
                for drop in (records.drop_records, journal.drop_log, orders.drop_orders)
            ]
        if max(gone) < _BATCH:
            self._due_s = now_s + _REST_S
        return sum(gone)
