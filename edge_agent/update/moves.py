"""The few ways in which an update moves from one stage to another. Pure; used by every decision."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from edge_agent.update.effects import (
    Cancel,
    Clean,
    Commit,
    Effect,
    Fetch,
    Hook,
    Report,
    Revert,
    RunHook,
    SelfTest,
    StageFiles,
    Switch,
    Watch,
)
from edge_agent.update.order import Order
from edge_agent.update.state import Ended, Stage, UpdateState
from edge_contract.messages import Phase

Outcome = tuple[UpdateState, tuple[Effect, ...]]

HOOK_OF: dict[Stage, Hook] = {
    Stage.PRE_FETCH: "pre-fetch",
    Stage.PRE_INSTALL: "pre-install",
    Stage.POST_INSTALL: "post-install",
    Stage.HEALTH: "health",
}


def order_of(state: UpdateState) -> Order:
    """The order under way; every stage but IDLE and a journal-less ROLLING_BACK has one."""
    assert state.order is not None, f"stage {state.stage.value} has no order"
    return state.order


def asks_of(state: UpdateState) -> tuple[Effect, ...]:
    """What the stage asks for when it is entered, and again when it is resumed."""
    ticket = state.ticket
    if state.stage is Stage.ROLLING_BACK:
        return (Revert(ticket),)
    order = order_of(state)
    if state.stage in HOOK_OF:
        return (RunHook(ticket, HOOK_OF[state.stage], order),)
    by_stage: dict[Stage, tuple[Effect, ...]] = {
        Stage.FETCHING: (Report(order, "downloading"), Fetch(ticket, order)),
        Stage.STAGING: (StageFiles(ticket, order),),
        Stage.SELF_TEST: (Report(order, "self_test"), SelfTest(ticket, order)),
        Stage.SWITCHING: (Switch(ticket, order),),
        Stage.TRIAL: (Report(order, "trial"), Watch(ticket, order)),
        Stage.COMMITTING: (Commit(ticket, order),),
    }
    return by_stage[state.stage]


def enter(state: UpdateState, stage: Stage, *first: Effect, **changes: Any) -> Outcome:
    """Enter ``stage`` under a new ticket: ``first``, then what the stage asks for."""
    after = replace(state, stage=stage, ticket=state.ticket + 1, **changes)
    return after, (*first, *asks_of(after))


def take_up(state: UpdateState, order: Order, *first: Effect) -> Outcome:
    """From rest, begin ``order``, or let it wait where the owner holds updates."""
    rest = replace(state, waiting=None)
    if order.digest == state.active:
        reason = "it is the active version already, so nothing needs doing"
        ended = Ended(order=order, phase="committed", reason=reason)
        return replace(rest, ended=ended), (
            *first,
            Report(order, ended.phase, ended.reason),
            Clean(),
        )
    if state.held:
        return replace(rest, waiting=order), (*first, Report(order, "held"))
    told = (*first, Report(order, "accepted"))
    return enter(rest, Stage.PRE_FETCH, *told, order=order)


def rest(state: UpdateState, ended: Ended | None) -> UpdateState:
    """Nothing under way any more."""
    return replace(
        state,
        stage=Stage.IDLE,
        ticket=state.ticket + 1,
        order=None,
        slot="",
        crashes=0,
        ran=False,
        reason="",
        ended=ended,
    )


def end(state: UpdateState, phase: Phase, reason: str, *first: Effect) -> Outcome:
    """The order is over; begin the one that waits, or come to rest and clean up."""
    ended = Ended(order=order_of(state), phase=phase, reason=reason)
    return come_to_rest(rest(state, ended), *first, Report(ended.order, phase, reason))


def come_to_rest(state: UpdateState, *first: Effect) -> Outcome:
    """Nothing is under way any more: begin the order that waits, or clean up."""
    if state.waiting is not None:
        return take_up(state, state.waiting, *first)
    return state, (*first, Clean())


def roll_back(state: UpdateState, reason: str, *first: Effect, **changes: Any) -> Outcome:
    """Go back to the active version, saying why."""
    return enter(state, Stage.ROLLING_BACK, Cancel(), *first, reason=reason, **changes)
