"""What a store from a backup must not do by itself: go on with what was under way back then."""

from __future__ import annotations

from fleet.manager.rollouts import Rollouts
from fleet.rollout.events import Pause
from fleet.rollout.state import Status
from fleet.store import journal, rollouts
from fleet.store.database import Store

_REASON = "a backup was restored, and devices may have gone on since"


def pause_rollouts(store: Store, *, who: str, now_s: float) -> list[str]:
    """Pause every rollout that was running when the backup was made; returns their ids.

    Newer rollouts, of which the backup knows nothing, may have followed: a person has to see what
    devices report before an old one asks more of them.
    """
    held = Rollouts()
    with store.write() as tx:
        held.load(tx)
        turn = held.open(tx, now_s)
        running = [
            row.id for row in rollouts.newest_rollouts(tx) if row.state.status is Status.RUNNING
        ]
        for rollout in running:
            turn.command(rollout, Pause(now_s=now_s, who=who, reason=_REASON))
        turn.write()
        journal.add_log(tx, now_s, "repository", "", f"backup restored by {who}", "warning")
    return running
