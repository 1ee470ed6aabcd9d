"""Where an update stands: one frozen value, written whole into every journal entry."""

from __future__ import annotations

import math
from enum import Enum

import msgspec

from edge_agent.update.order import Order
from edge_contract.messages import Phase


class Stage(str, Enum):
    """The stages of an update. Each but IDLE waits for the answer to exactly one effect."""

    IDLE = "idle"
    PRE_FETCH = "pre_fetch"
    FETCHING = "fetching"
    PRE_INSTALL = "pre_install"
    STAGING = "staging"
    SELF_TEST = "self_test"
    POST_INSTALL = "post_install"
    SWITCHING = "switching"
    TRIAL = "trial"
    HEALTH = "health"
    COMMITTING = "committing"
    ROLLING_BACK = "rolling_back"


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How the last order ended. Told to the fleet again after each restart."""

    order: Order
    phase: Phase
    reason: str = ""


class UpdateState(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The whole memory of the update machine.

    ticket: grows with every stage entered; an answer with another ticket is stale.
    order: what is being carried out (None in IDLE).
    waiting: a newer order that begins when this one is unwound, or when the hold is lifted.
    seen: the highest (epoch, seq) ever taken up; only a higher one is taken up by hand.
    obeyed: likewise of the fleet's own orders; only a higher one of the fleet is taken up.
    medium: the highest sequence of a medium whose order was taken up.
    active, active_slot, active_version: the committed version ("" before the first).
    slot: the slot that ``order`` was staged into.
    crashes: unexplained ends of the agent since the stage, or the trial, began.
    ran: the version of ``order`` may have answered frames.
    reason: why the update is being rolled back.
    """

    stage: Stage = Stage.IDLE
    ticket: int = 0
    order: Order | None = None
    waiting: Order | None = None
    seen: tuple[int, int] = (-1, -1)
    obeyed: tuple[int, int] = (-1, -1)
    medium: int = 0
    active: str = ""
    active_slot: str = ""
    active_version: str = ""
    slot: str = ""
    crashes: int = 0
    ran: bool = False
    reason: str = ""
    held: bool = False
    ended: Ended | None = None


UNCLEAN_MAX = 5
"""Unannounced ends, crashes and power cuts together, within one of the stages that handle the new
version before the switch. A model that ends the process, or browns the board out, while it is
loaded for its self-test must not be tried for ever."""

_HOUR_S = 3600.0
_STAGE_DEADLINE_S = {
    Stage.IDLE: math.inf,
    Stage.PRE_FETCH: 14 * 24 * _HOUR_S,
    Stage.FETCHING: 14 * 24 * _HOUR_S,
    Stage.PRE_INSTALL: 14 * 24 * _HOUR_S,
    Stage.STAGING: 1 * _HOUR_S,
    Stage.SELF_TEST: 1 * _HOUR_S,
    Stage.POST_INSTALL: 14 * 24 * _HOUR_S,
    Stage.SWITCHING: 1 * _HOUR_S,
    Stage.HEALTH: 1 * _HOUR_S,
    Stage.COMMITTING: 60.0,
    Stage.ROLLING_BACK: 1 * _HOUR_S,
}
"""How long a stage may last in one run of the agent. Fetching, waiting for the device to be ready
and asking the owner's hook may take weeks on a device that is seldom online or seldom free; loading
a model may take many minutes where a runtime builds it first. A restart begins the count anew;
unexplained restarts are limited."""


def deadline_s(state: UpdateState) -> float:
    """Seconds that the current stage may last; a trial's come from its order's health spec."""
    if state.stage is Stage.TRIAL and state.order is not None:
        return state.order.health.deadline_s
    return _STAGE_DEADLINE_S[state.stage]
