"""Everything that can happen to an update.

Some events come from outside at any time. The others answer an effect: they carry the ticket of
the stage that asked, so that the late answer of a cancelled job is told from the awaited one.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_agent.update.order import Order

Boot = Literal["clean", "crash", "power"]
"""How the run before ended: stopped in order, ended without a word, or lost with the machine."""


class Event(msgspec.Struct, frozen=True):
    """Something that happened."""


class Ordered(Event, frozen=True):
    """A verified order came. It comes again on every reconnect."""

    order: Order


class Superseded(Event, frozen=True):
    """An order came while another is being carried out. The newer one always wins."""

    order: Order


class Restarted(Event, frozen=True, kw_only=True):
    """The agent starts: how the last run ended, and what the slots say now.

    active, active_slot, active_version: the committed version on disk ("" for none).
    trial: digest of the version that is switched in on trial ("" for none).
    note: why the active slot is another one than before ("" where it is not).
    trial_lost: why the slots gave up a trial by themselves ("" where they did not).
    """

    boot: Boot
    active: str = ""
    active_slot: str = ""
    active_version: str = ""
    trial: str = ""
    note: str = ""
    trial_lost: str = ""


class DeadlinePassed(Event, frozen=True):
    """The stage, or the order as a whole, took longer than it may. ``reason`` has the figures."""

    reason: str


class Withdrawn(Event, frozen=True):
    """The fleet took its order back."""

    reason: str


class Held(Event, frozen=True):
    """The owner wants no updates for now."""


class Released(Event, frozen=True):
    """The owner lets updates come again."""


class Answer(Event, frozen=True):
    """Answers an effect. One with another ticket than the current stage's is stale."""

    ticket: int


class FetchDone(Answer, frozen=True):
    """Every blob that this device needs is here, whole and checked."""


class FetchFailed(Answer, frozen=True):
    """It will not come. ``refused``: the bundle is not for this device (line, hardware, trust)."""

    reason: str
    refused: bool = False


class FetchWaits(Event, frozen=True):
    """What fetching waits for: ``reason``, or "" once it goes on.

    It answers no stage; status and the deadline's message say it, under its stage's ``ticket``.
    """

    ticket: int
    reason: str


class HookAnswer(Answer, frozen=True):
    """What the device's own hook said."""

    answer: Literal["ok", "refuse", "later"]
    reason: str = ""


class StageDone(Answer, frozen=True):
    """The spare slot holds the version, durably, every file checked."""

    slot: str


class StageFailed(Answer, frozen=True):
    """The spare slot could not be filled; ``full``: for want of space alone."""

    reason: str
    full: bool = False


class SelfTestPassed(Answer, frozen=True):
    """The golden vectors agree on this device."""


class SelfTestFailed(Answer, frozen=True):
    """They do not, or the model cannot be loaded."""

    reason: str


class Switched(Answer, frozen=True):
    """The model that was asked for answers the frames now."""


class SlotChecked(Event, frozen=True):
    """The spare slot was read through before the switch: ``reason`` says what is wrong, or "".

    It answers no stage; the executor goes on with the switch, under the ``ticket`` of its stage.
    """

    ticket: int
    reason: str


class SwitchFailed(Answer, frozen=True):
    """It could not be brought in; what ran before still runs."""

    reason: str


class TrialVerdict(Answer, frozen=True):
    """The judge has seen enough."""

    healthy: bool
    reason: str = ""


class Committed(Answer, frozen=True):
    """The pointer names the new version as the active one, durably."""
