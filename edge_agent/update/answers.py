"""Decisions on the answers that each stage waits for. Pure."""

from __future__ import annotations

from msgspec.structs import replace

from edge_agent.update.effects import Alarm, AskAgain, Effect, Fact, Record, Report, Tell
from edge_agent.update.events import (
    Committed,
    FetchDone,
    FetchFailed,
    HookAnswer,
    SelfTestFailed,
    SelfTestPassed,
    StageDone,
    StageFailed,
    Switched,
    SwitchFailed,
    TrialVerdict,
)
from edge_agent.update.moves import (
    HOOK_OF,
    Outcome,
    come_to_rest,
    end,
    enter,
    order_of,
    rest,
    roll_back,
)
from edge_agent.update.state import Stage, UpdateState


def pre_fetch_said(state: UpdateState, event: HookAnswer) -> Outcome:
    """The owner's own program may keep a metered or busy link free, or refuse the order."""
    if event.answer == "later":
        return _ask_again(state)
    if event.answer == "refuse":
        return end(state, "refused", event.reason)
    return enter(state, Stage.FETCHING)


def fetched(state: UpdateState, event: FetchDone) -> Outcome:
    """Ask the device's owner before anything is written."""
    return enter(state, Stage.PRE_INSTALL)


def not_fetched(state: UpdateState, event: FetchFailed) -> Outcome:
    """Not for this device, or not to be had."""
    return end(state, "refused" if event.refused else "failed", event.reason)


def pre_install_said(state: UpdateState, event: HookAnswer) -> Outcome:
    """The owner's own program may put the update off, or refuse it."""
    if event.answer == "later":
        return _ask_again(state)
    if event.answer == "refuse":
        return end(state, "refused", event.reason)
    return enter(state, Stage.STAGING)


def staged(state: UpdateState, event: StageDone) -> Outcome:
    """The files lie in the spare slot."""
    order = order_of(state)
    entered = Fact(what="entered", slot=event.slot, digest=order.digest, version=order.version)
    told = (Record(entered), Report(order, "staged"))
    return enter(state, Stage.SELF_TEST, *told, slot=event.slot, crashes=0)


def not_staged(state: UpdateState, event: StageFailed) -> Outcome:
    """A disk that filled up meanwhile is waited for (ADR 0028); a damaged file is not."""
    if not event.full:
        return end(state, "failed", event.reason)
    before = replace(state, stage=Stage.PRE_INSTALL, ticket=state.ticket + 1)
    return _ask_again(before)


def not_installable(state: UpdateState, event: SelfTestFailed) -> Outcome:
    """The active slot was never left."""
    return end(state, "failed", event.reason)


def self_test_passed(state: UpdateState, event: SelfTestPassed) -> Outcome:
    """The version gives the answers that it was proven with."""
    return enter(state, Stage.POST_INSTALL, crashes=0)


def post_install_said(state: UpdateState, event: HookAnswer) -> Outcome:
    """From here on the version may answer frames: the journal says so before it can."""
    if event.answer == "later":
        return _ask_again(state)
    if event.answer == "refuse":
        return end(state, "failed", event.reason)
    order = order_of(state)
    trial = Fact(what="trial", slot=state.slot, digest=order.digest, version=order.version)
    return enter(state, Stage.SWITCHING, Record(trial), crashes=0)


def switched(state: UpdateState, event: Switched) -> Outcome:
    """The new version answers; the old one is kept."""
    return enter(state, Stage.TRIAL, ran=True)


def not_switched(state: UpdateState, event: SwitchFailed) -> Outcome:
    """What ran before still runs; take the pointer back."""
    return roll_back(state, event.reason)


def judged(state: UpdateState, event: TrialVerdict) -> Outcome:
    """The judge has spoken; the device's own health hook has the last word."""
    return enter(state, Stage.HEALTH) if event.healthy else roll_back(state, event.reason)


def judged_late(state: UpdateState, event: TrialVerdict) -> Outcome:
    """The judge goes on watching while the health hook runs."""
    return (state, ()) if event.healthy else roll_back(state, event.reason)


def health_said(state: UpdateState, event: HookAnswer) -> Outcome:
    """No server is asked: a device that is offline commits as well."""
    if event.answer == "later":
        return _ask_again(state)
    if event.answer == "refuse":
        return roll_back(state, event.reason)
    return enter(state, Stage.COMMITTING)


def _ask_again(state: UpdateState) -> Outcome:
    return state, (AskAgain(state.ticket, HOOK_OF[state.stage], order_of(state)),)


def committed(state: UpdateState, event: Committed) -> Outcome:
    """The pointer has moved."""
    return commit_ends(state, state.slot)


def commit_ends(state: UpdateState, slot: str, *first: Effect, note: str = "") -> Outcome:
    """The order's version is the active one, in ``slot``."""
    order = order_of(state)
    fact = Fact(what="active", slot=slot, digest=order.digest, version=order.version, reason=note)
    after = replace(state, active=order.digest, active_slot=slot, active_version=order.version)
    told = (Record(fact), Tell("post-commit", order))
    return end(after, "committed", note, *first, *told)


def returned(state: UpdateState, event: Switched) -> Outcome:
    """The active version answers again."""
    return _return_ends(state)


def not_returned(state: UpdateState, event: SwitchFailed) -> Outcome:
    """The pointer is right, yet its version does not load: somebody must know."""
    return _return_ends(state, Alarm(f"the version before cannot be brought back: {event.reason}"))


def _return_ends(state: UpdateState, *first: Effect) -> Outcome:
    order = state.order
    if order is None:  # a trial that the journal knew nothing of
        return come_to_rest(rest(state, state.ended), *first)
    left = Fact(
        what="left",
        slot=state.slot,
        digest=order.digest,
        version=order.version,
        reason=state.reason,
    )
    told = (Record(left), Tell("post-rollback", order, state.reason))
    return end(state, "rolled_back" if state.ran else "failed", state.reason, *first, *told)
