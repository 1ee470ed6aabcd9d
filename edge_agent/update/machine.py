"""The update machine: one table, pure. ``step(state, event) -> (state, effects)``.

Rules, in the order of their weight:

1. The journal comes first, then the effects. A state says what is *being* done; only the answer
   to its effect leads on. So IDLE is never written before the commit has happened.
2. Every effect may be done twice. After a restart the stage's effect is asked for again.
3. Every stage has a row for a restart, a newer order, a deadline, a hold and its release.
4. A newer order always wins, and an order of the fleet is newer than another of the fleet by its
   (epoch, seq) alone: what was ordered by hand bars none. Before the switch the old one is
   dropped; after it, it is unwound first; one that names the same digest just takes the old
   one's place, and is reported as accepted: who waited for the old one follows it.
5. A version that is active already is committed at once. Nothing is installed twice, and an order
   that has ended is not begun again: only a higher (epoch, seq) is.
6. Until the commit the pointer's active slot is the old one, whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from edge_agent.update import answers, arrivals, restarts
from edge_agent.update.events import (
    Answer,
    Committed,
    DeadlinePassed,
    Event,
    FetchDone,
    FetchFailed,
    Held,
    HookAnswer,
    Ordered,
    Released,
    Restarted,
    SelfTestFailed,
    SelfTestPassed,
    StageDone,
    StageFailed,
    Superseded,
    Switched,
    SwitchFailed,
    TrialVerdict,
    Withdrawn,
)
from edge_agent.update.moves import Outcome
from edge_agent.update.state import Stage, UpdateState

IDLE = Stage.IDLE
PRE_FETCH = Stage.PRE_FETCH
FETCHING = Stage.FETCHING
PRE_INSTALL = Stage.PRE_INSTALL
STAGING = Stage.STAGING
SELF_TEST = Stage.SELF_TEST
POST_INSTALL = Stage.POST_INSTALL
SWITCHING = Stage.SWITCHING
TRIAL = Stage.TRIAL
HEALTH = Stage.HEALTH
COMMITTING = Stage.COMMITTING
ROLLING_BACK = Stage.ROLLING_BACK


def step(state: UpdateState, event: Event) -> Outcome:
    """The next state, and what to do once it is in the journal.

    An event without a row in the current stage changes nothing: it answers a stage that is over.
    """
    if isinstance(event, Ordered) and state.stage is not IDLE:
        event = Superseded(event.order)
    if isinstance(event, Answer) and event.ticket != state.ticket:
        return state, ()
    row = TABLE.get((state.stage, type(event)))
    return row.decide(state, event) if row else (state, ())


class Row(NamedTuple):
    """In ``stage``, ``event`` is decided by ``decide`` and leads to one of ``to``."""

    stage: Stage
    event: type[Event]
    decide: Callable[[UpdateState, Any], Outcome]
    to: tuple[Stage, ...]


# fmt: off
_NEXT = (IDLE, PRE_FETCH)  # an order has ended; one that waited may begin

ROWS = (
    Row(IDLE,         Ordered,        arrivals.begin,           (IDLE, PRE_FETCH)),
    Row(IDLE,         Superseded,     arrivals.begin,           (IDLE, PRE_FETCH)),
    Row(IDLE,         Restarted,      restarts.idle,            (IDLE, ROLLING_BACK)),
    Row(IDLE,         DeadlinePassed, arrivals.expire_waiting,  (IDLE,)),
    Row(IDLE,         Withdrawn,      arrivals.expire_waiting,  (IDLE,)),
    Row(IDLE,         Held,           arrivals.hold,            (IDLE,)),
    Row(IDLE,         Released,       arrivals.release_idle,    (IDLE, PRE_FETCH)),

    Row(PRE_FETCH,    HookAnswer,     answers.pre_fetch_said,   (FETCHING, PRE_FETCH, IDLE)),
    Row(PRE_FETCH,    Superseded,     arrivals.supersede_early, _NEXT),
    Row(PRE_FETCH,    Restarted,      restarts.fetching,        (PRE_FETCH, IDLE)),
    Row(PRE_FETCH,    DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(PRE_FETCH,    Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(PRE_FETCH,    Held,           arrivals.hold_early,      (IDLE,)),
    Row(PRE_FETCH,    Released,       arrivals.release,         (PRE_FETCH,)),

    Row(FETCHING,     FetchDone,      answers.fetched,          (PRE_INSTALL,)),
    Row(FETCHING,     FetchFailed,    answers.not_fetched,      (IDLE,)),
    Row(FETCHING,     Superseded,     arrivals.supersede_early, (FETCHING, *_NEXT)),
    Row(FETCHING,     Restarted,      restarts.fetching,        (FETCHING, IDLE)),
    Row(FETCHING,     DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(FETCHING,     Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(FETCHING,     Held,           arrivals.hold_early,      (IDLE,)),
    Row(FETCHING,     Released,       arrivals.release,         (FETCHING,)),

    Row(PRE_INSTALL,  HookAnswer,     answers.pre_install_said, (STAGING, PRE_INSTALL, IDLE)),
    Row(PRE_INSTALL,  Superseded,     arrivals.supersede_early, (PRE_INSTALL, *_NEXT)),
    Row(PRE_INSTALL,  Restarted,      restarts.fetching,        (PRE_INSTALL, IDLE)),
    Row(PRE_INSTALL,  DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(PRE_INSTALL,  Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(PRE_INSTALL,  Held,           arrivals.hold_early,      (IDLE,)),
    Row(PRE_INSTALL,  Released,       arrivals.release,         (PRE_INSTALL,)),

    Row(STAGING,      StageDone,      answers.staged,           (SELF_TEST,)),
    Row(STAGING,      StageFailed,    answers.not_staged,       (PRE_INSTALL, IDLE)),
    Row(STAGING,      Superseded,     arrivals.supersede_early, (STAGING, *_NEXT)),
    Row(STAGING,      Restarted,      restarts.early,           (STAGING, IDLE)),
    Row(STAGING,      DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(STAGING,      Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(STAGING,      Held,           arrivals.hold_early,      (IDLE,)),
    Row(STAGING,      Released,       arrivals.release,         (STAGING,)),

    Row(SELF_TEST,    SelfTestPassed, answers.self_test_passed, (POST_INSTALL,)),
    Row(SELF_TEST,    SelfTestFailed, answers.not_installable,  (IDLE,)),
    Row(SELF_TEST,    Superseded,     arrivals.supersede_early, (SELF_TEST, *_NEXT)),
    Row(SELF_TEST,    Restarted,      restarts.early,           (SELF_TEST, IDLE)),
    Row(SELF_TEST,    DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(SELF_TEST,    Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(SELF_TEST,    Held,           arrivals.hold_early,      (IDLE,)),
    Row(SELF_TEST,    Released,       arrivals.release,         (SELF_TEST,)),

    Row(POST_INSTALL, HookAnswer,     answers.post_install_said,(SWITCHING, POST_INSTALL, IDLE)),
    Row(POST_INSTALL, Superseded,     arrivals.supersede_early, (POST_INSTALL, *_NEXT)),
    Row(POST_INSTALL, Restarted,      restarts.early,           (POST_INSTALL, IDLE)),
    Row(POST_INSTALL, DeadlinePassed, arrivals.expire_early,    (IDLE,)),
    Row(POST_INSTALL, Withdrawn,      arrivals.withdraw_early,  (IDLE,)),
    Row(POST_INSTALL, Held,           arrivals.hold_early,      (IDLE,)),
    Row(POST_INSTALL, Released,       arrivals.release,         (POST_INSTALL,)),

    Row(SWITCHING,    Switched,       answers.switched,         (TRIAL,)),
    Row(SWITCHING,    SwitchFailed,   answers.not_switched,     (ROLLING_BACK,)),
    Row(SWITCHING,    Superseded,     arrivals.supersede_trial, (ROLLING_BACK, SWITCHING)),
    Row(SWITCHING,    Restarted,      restarts.trial,           (SWITCHING, ROLLING_BACK, *_NEXT)),
    Row(SWITCHING,    DeadlinePassed, arrivals.expire_trial,    (ROLLING_BACK,)),
    Row(SWITCHING,    Held,           arrivals.hold,            (SWITCHING,)),
    Row(SWITCHING,    Released,       arrivals.release,         (SWITCHING,)),

    Row(TRIAL,        TrialVerdict,   answers.judged,           (HEALTH, ROLLING_BACK)),
    Row(TRIAL,        Superseded,     arrivals.supersede_trial, (ROLLING_BACK, TRIAL)),
    Row(TRIAL,        Restarted,      restarts.trial,           (SWITCHING, ROLLING_BACK, *_NEXT)),
    Row(TRIAL,        DeadlinePassed, arrivals.expire_trial,    (ROLLING_BACK,)),
    Row(TRIAL,        Held,           arrivals.hold,            (TRIAL,)),
    Row(TRIAL,        Released,       arrivals.release,         (TRIAL,)),

    Row(HEALTH,       HookAnswer,     answers.health_said,      (COMMITTING, HEALTH, ROLLING_BACK)),
    Row(HEALTH,       TrialVerdict,   answers.judged_late,      (HEALTH, ROLLING_BACK)),
    Row(HEALTH,       Superseded,     arrivals.supersede_trial, (ROLLING_BACK, HEALTH)),
    Row(HEALTH,       Restarted,      restarts.trial,           (SWITCHING, ROLLING_BACK, *_NEXT)),
    Row(HEALTH,       DeadlinePassed, arrivals.expire_trial,    (ROLLING_BACK,)),
    Row(HEALTH,       Held,           arrivals.hold,            (HEALTH,)),
    Row(HEALTH,       Released,       arrivals.release,         (HEALTH,)),

    Row(COMMITTING,   Committed,      answers.committed,        _NEXT),
    Row(COMMITTING,   SwitchFailed,   answers.not_switched,     (ROLLING_BACK,)),
    Row(COMMITTING,   Superseded,     arrivals.finish_first,    (COMMITTING,)),
    Row(COMMITTING,   Restarted,      restarts.committing,      (COMMITTING, ROLLING_BACK, *_NEXT)),
    Row(COMMITTING,   DeadlinePassed, arrivals.try_again,       (COMMITTING,)),
    Row(COMMITTING,   Withdrawn,      arrivals.withdraw_waiting, (COMMITTING,)),
    Row(COMMITTING,   Held,           arrivals.hold,            (COMMITTING,)),
    Row(COMMITTING,   Released,       arrivals.release,         (COMMITTING,)),

    Row(ROLLING_BACK, Switched,       answers.returned,         _NEXT),
    Row(ROLLING_BACK, SwitchFailed,   answers.not_returned,_NEXT),
    Row(ROLLING_BACK, Superseded,     arrivals.let_wait,        (ROLLING_BACK,)),
    Row(ROLLING_BACK, Restarted,      restarts.rolling_back,    (ROLLING_BACK,)),
    Row(ROLLING_BACK, DeadlinePassed, arrivals.try_again,       (ROLLING_BACK,)),
    Row(ROLLING_BACK, Withdrawn,      arrivals.withdraw_waiting, (ROLLING_BACK,)),
    Row(ROLLING_BACK, Held,           arrivals.hold,            (ROLLING_BACK,)),
    Row(ROLLING_BACK, Released,       arrivals.release,         (ROLLING_BACK,)),
)
# fmt: on

TABLE = {(row.stage, row.event): row for row in ROWS}
