"""Decisions after a restart: what the journal says was being done, what the slots say is there.

Only ends that nobody announced are counted. A crash during a trial speaks against the version; a
power cut does not by itself, but the slots count every unannounced boot of a trial and give it up
when there are too many (``slots.TRIAL_BOOTS_MAX``), whatever this machine thinks.
"""

from __future__ import annotations

from msgspec.structs import replace

from edge_agent.update.answers import commit_ends
from edge_agent.update.effects import Alarm, Clean, Effect, Fact, Record, Report, RunActive
from edge_agent.update.events import Restarted
from edge_agent.update.moves import Outcome, end, enter, order_of, roll_back
from edge_agent.update.state import UNCLEAN_MAX, Stage, UpdateState


def idle(state: UpdateState, event: Restarted) -> Outcome:
    """Run the active version, and tell again how the last order ended."""
    state, facts = _met(state, event)
    if event.trial:
        reason = "a version was on trial that the journal knows nothing of"
        return roll_back(state, reason, *facts, Alarm(reason))
    told: tuple[Effect, ...] = ()
    # A committed version whose slot was lost since is not told of: the fleet would believe it.
    if state.ended is not None and (
        state.ended.phase != "committed" or state.ended.order.digest == state.active
    ):
        told = (Report(state.ended.order, state.ended.phase, state.ended.reason),)
    if state.waiting is not None:
        told = (*told, Report(state.waiting, "held"))
    return state, (*facts, RunActive(), *told, *(() if state.waiting else (Clean(),)))


def fetching(state: UpdateState, event: Restarted) -> Outcome:
    """Go on: the new version has not been touched, so no end of the agent speaks against it."""
    if _is_in(state, event):
        return commit_ends(state, event.active_slot, RunActive(), note=event.note)
    state, facts = _met(state, event)
    return enter(state, state.stage, *facts, RunActive())


def early(state: UpdateState, event: Restarted) -> Outcome:
    """Do the stage again, unless the agent keeps ending in it."""
    if _is_in(state, event):
        return commit_ends(state, event.active_slot, RunActive(), note=event.note)
    state, facts = _met(state, event)
    crashes = state.crashes + (event.boot != "clean")
    if crashes > UNCLEAN_MAX:
        reason = f"the agent ended unannounced {crashes} times in stage {state.stage.value}"
        return end(state, "failed", reason, *facts, RunActive())
    return enter(state, state.stage, *facts, RunActive(), crashes=crashes)


def trial(state: UpdateState, event: Restarted) -> Outcome:
    """Switch in again and begin the trial anew, unless it has been given up."""
    if _is_in(state, event):
        return commit_ends(state, event.active_slot, RunActive(), note=event.note)
    state, facts = _met(state, event)
    crashes = state.crashes + (event.boot == "crash")
    limit = order_of(state).health.restarts_max
    if event.trial_lost:
        return roll_back(state, event.trial_lost, *facts, crashes=crashes, ran=True)
    if crashes > limit:
        reason = f"{crashes} unexplained restarts during the trial, limit {limit}"
        return roll_back(state, reason, *facts, crashes=crashes, ran=True)
    return enter(state, Stage.SWITCHING, *facts, RunActive(), crashes=crashes, ran=True)


def committing(state: UpdateState, event: Restarted) -> Outcome:
    """Commit, or find that it was done."""
    if _is_in(state, event):
        return commit_ends(state, event.active_slot, RunActive(), note=event.note)
    state, facts = _met(state, event)
    if event.trial_lost:
        return roll_back(state, event.trial_lost, *facts)
    after, effects = enter(state, Stage.COMMITTING, *facts)
    return after, (*effects, RunActive())


def rolling_back(state: UpdateState, event: Restarted) -> Outcome:
    """Go back, or find that it was done."""
    state, facts = _met(state, event)
    return enter(state, Stage.ROLLING_BACK, *facts)


def _is_in(state: UpdateState, event: Restarted) -> bool:
    """Whether the order's version is the committed one: nothing is installed twice."""
    return event.active == order_of(state).digest and not event.trial


def _met(state: UpdateState, event: Restarted) -> tuple[UpdateState, tuple[Effect, ...]]:
    """Take over what the slots say, and write down where that differs from what was known."""
    if event.active == state.active:
        return replace(state, active_slot=event.active_slot), ()
    after = replace(
        state,
        active=event.active,
        active_slot=event.active_slot,
        active_version=event.active_version,
    )
    fact = Fact(
        what="active" if event.active else "left",
        slot=event.active_slot or state.active_slot,
        digest=event.active or state.active,
        version=event.active_version or state.active_version,
        reason=event.note or "found so at the start",
    )
    return after, (Record(fact),)
