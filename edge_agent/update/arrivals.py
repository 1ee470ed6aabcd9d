"""Decisions on what comes from outside at any time: orders, holds, deadlines. Pure."""

from __future__ import annotations

from typing import Any

from msgspec.structs import replace

from edge_agent.update.effects import Alarm, Cancel, Clean, Effect, Report, Watch
from edge_agent.update.events import DeadlinePassed, Held, Ordered, Released, Superseded, Withdrawn
from edge_agent.update.moves import Outcome, end, enter, order_of, rest, roll_back, take_up
from edge_agent.update.order import Order
from edge_agent.update.state import Ended, Stage, UpdateState


def begin(state: UpdateState, event: Ordered | Superseded) -> Outcome:
    """An order at rest. One that is not newer than every order before changes nothing."""
    order = event.order
    again = not order.by_hand and order.key == state.obeyed and was_lost(state)
    if not (again or _is_newer(state, order)):
        return state, ()
    return take_up(_noted(state, order), order, *_displaced(state, order))


def _is_newer(state: UpdateState, order: Order) -> bool:
    """Whether it counts. The fleet's orders are measured by the fleet's alone: one that was signed
    while the device took its number for an order by hand is news all the same."""
    return order.key > (state.seen if order.by_hand else state.obeyed)


def _noted(state: UpdateState, order: Order, /, **changes: Any) -> UpdateState:
    """The state that has taken this order up."""
    obeyed = state.obeyed if order.by_hand else order.key
    seen, medium = max(state.seen, order.key), max(state.medium, order.medium)
    return replace(state, seen=seen, obeyed=obeyed, medium=medium, **changes)


def was_lost(state: UpdateState) -> bool:
    """Whether the last order's version was committed here, and damage left no version at all.

    Then the fleet's last order counts once more: it is what the fleet still wants of this device,
    and nothing runs meanwhile. Where a fallback runs, a person decides what comes next.
    """
    ended = state.ended
    return (
        state.stage is Stage.IDLE
        and ended is not None
        and ended.phase == "committed"
        and not state.active
    )


def supersede_early(state: UpdateState, event: Superseded) -> Outcome:
    """Before the switch: drop what was under way and begin the newer order."""
    order = event.order
    if not _is_newer(state, order):
        return state, ()
    if order.digest == order_of(state).digest:
        return _adopt(state, order)
    after = _noted(state, order, waiting=order)
    return end(after, "failed", f"superseded by {order.sentence()}", Cancel())


def supersede_trial(state: UpdateState, event: Superseded) -> Outcome:
    """After the switch: go back first, then begin the newer order."""
    order = event.order
    if not _is_newer(state, order):
        return state, ()
    if order.digest == order_of(state).digest:
        return _adopt(state, order)
    reason = f"superseded by {order.sentence()}"
    return roll_back(_noted(state, order), reason, waiting=order, ran=True)


def finish_first(state: UpdateState, event: Superseded) -> Outcome:
    """The verdict is given and the pointer about to move: finish, then begin the newer order."""
    order = event.order
    if _is_newer(state, order) and order.digest == order_of(state).digest:
        return _adopt(state, order)
    return let_wait(state, event)


def let_wait(state: UpdateState, event: Superseded) -> Outcome:
    """Let it wait until the device is back on the active version."""
    order = event.order
    if not _is_newer(state, order):
        return state, ()
    return _noted(state, order, waiting=order), _displaced(state, order)


def _adopt(state: UpdateState, order: Order) -> Outcome:
    """A newer order for the very version that is under way takes the old one's place."""
    told: tuple[Effect, ...] = (*_displaced(state, order), Report(order, "accepted"))
    after = _noted(state, order, order=order, waiting=None)
    if after.stage is Stage.TRIAL:
        told = (*told, Watch(after.ticket, order))
    return after, told


def _displaced(state: UpdateState, order: Order) -> tuple[Effect, ...]:
    """What to tell of an order that waited and will never begin."""
    if state.waiting is None:
        return ()
    return (Report(state.waiting, "failed", f"superseded by {order.sentence()}"),)


def hold_early(state: UpdateState, event: Held) -> Outcome:
    """Before the switch a hold stops the work; what was pulled stays, the order waits."""
    order = order_of(state)
    after = replace(rest(state, state.ended), held=True, waiting=order)
    return after, (Cancel(), Report(order, "held"))


def hold(state: UpdateState, event: Held) -> Outcome:
    """At rest, or once the new version was switched in: a trial is ended, not frozen."""
    return replace(state, held=True), ()


def release(state: UpdateState, event: Released) -> Outcome:
    """Nothing waits at this stage."""
    return replace(state, held=False), ()


def release_idle(state: UpdateState, event: Released) -> Outcome:
    """Begin what waited."""
    free = replace(state, held=False)
    return take_up(free, free.waiting) if free.waiting else (free, ())


def withdraw_early(state: UpdateState, event: Withdrawn) -> Outcome:
    """Before the switch nothing has to be undone. What came after the switch is judged: the model
    is approved, and its trial decides. What was ordered by hand was never the fleet's."""
    if order_of(state).by_hand:
        return state, ()
    return end(state, "failed", event.reason, Cancel())


def expire_waiting(state: UpdateState, event: DeadlinePassed | Withdrawn) -> Outcome:
    """An order that was held for too long, or that the fleet took back meanwhile."""
    if state.waiting is None or (isinstance(event, Withdrawn) and state.waiting.by_hand):
        return state, ()
    ended = Ended(order=state.waiting, phase="failed", reason=event.reason)
    after = replace(state, waiting=None, ended=ended)
    return after, (Report(ended.order, ended.phase, ended.reason), Clean())


def withdraw_waiting(state: UpdateState, event: Withdrawn) -> Outcome:
    """What is being finished goes on; the fleet's order that waits for its end will not begin."""
    if state.waiting is None or state.waiting.by_hand:
        return state, ()
    after = replace(state, waiting=None)
    return after, (Report(state.waiting, "failed", event.reason),)


def expire_early(state: UpdateState, event: DeadlinePassed) -> Outcome:
    """Before the switch nothing has to be undone."""
    return end(state, "failed", event.reason, Cancel())


def expire_trial(state: UpdateState, event: DeadlinePassed) -> Outcome:
    """After the switch there is only one safe way."""
    return roll_back(state, event.reason, ran=True)


def try_again(state: UpdateState, event: DeadlinePassed) -> Outcome:
    """Commit and return must happen: nothing else leads on. Both models run meanwhile."""
    return enter(state, state.stage, Alarm(f"{event.reason}; trying again"))
