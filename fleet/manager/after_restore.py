"""What a store from a backup must not do by itself: go on with what was under way back then."""

from __future__ import annotations

from fleet.manager.rollouts import Rollouts
from fleet.rollout.events import Restored
from fleet.rollout.state import Status
from fleet.store import journal, orders, rollouts
from fleet.store.database import Store

_UNDER_WAY = (Status.RUNNING, Status.ROLLING_BACK)


def stand_still(store: Store, *, who: str, now_s: float) -> list[str]:
    """Pause every rollout that was under way when the backup was made; returns their ids.

    Newer rollouts, of which the backup knows nothing, may have followed: a person has to see what
    devices report before an old one asks more of them. No device is given an order before it has
    said where it stands (``schema.devices``, ``unheard``).
    """
    held = Rollouts()
    with store.write() as tx:
        held.load(tx)
        turn = held.open(tx, now_s)
        under_way = [
            row.id for row in rollouts.newest_rollouts(tx) if row.state.status in _UNDER_WAY
        ]
        for rollout in under_way:
            turn.command(rollout, Restored(now_s=now_s, who=who))
        turn.write()
        orders.mark_restored(tx)
        journal.add_log(tx, now_s, "repository", "", f"backup restored by {who}", "warning")
    return under_way
