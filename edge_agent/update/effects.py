"""What the update machine asks for. Every effect may be asked for again after a restart.

An effect with a ticket is answered by an event with the same ticket.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_agent.update.order import Order
from edge_contract.messages import Phase

Hook = Literal["pre-fetch", "pre-install", "post-install", "health"]
Notice = Literal["post-commit", "post-rollback"]


class Fact(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line of the audit trail: which version was where. Never dropped.

    entered: its files lie whole in the slot.  trial: it began to answer frames from there.
    active: it is the committed version.  left: it was switched in, or active, and is no more.
    """

    what: Literal["entered", "trial", "active", "left"]
    slot: str
    digest: str
    version: str = ""
    reason: str = ""


class Effect(msgspec.Struct, frozen=True):
    """Something to do."""


class Record(Effect, frozen=True):
    """Write this fact in the journal, in the very entry of the step that asks for it."""

    fact: Fact


class Report(Effect, frozen=True):
    """Tell the fleet (through the spool: it may be told again after a restart)."""

    order: Order
    phase: Phase
    reason: str = ""


class Tell(Effect, frozen=True):
    """Run a hook that is only told how an order ended; nothing waits for it."""

    notice: Notice
    order: Order
    reason: str = ""


class Alarm(Effect, frozen=True):
    """Tell a person."""

    text: str


class Cancel(Effect, frozen=True):
    """Stop pulling blobs and end a running hook. What was pulled stays."""


class Clean(Effect, frozen=True):
    """Remove blobs and slot contents that nothing needs. Live and fallback slots stay."""


class RunActive(Effect, frozen=True):
    """After a start: let the committed version answer frames. Its answer has ticket 0."""


class Asked(Effect, frozen=True):
    """An effect that will be answered by an event with this ticket."""

    ticket: int


class Fetch(Asked, frozen=True):
    """Pull what this device needs of the bundle."""

    order: Order


class RunHook(Asked, frozen=True):
    """Ask the device's own hook."""

    hook: Hook
    order: Order


class AskAgain(Asked, frozen=True):
    """The hook said "later": ask it again after a while."""

    hook: Hook
    order: Order


class StageFiles(Asked, frozen=True):
    """Fill the spare slot."""

    order: Order


class SelfTest(Asked, frozen=True):
    """Load the spare slot aside and run its golden vectors."""

    order: Order


class Switch(Asked, frozen=True):
    """Write the trial pointer, then let the new version answer, keeping the old one."""

    order: Order


class Watch(Asked, frozen=True):
    """Judge the version on trial."""

    order: Order


class Commit(Asked, frozen=True):
    """Make the version on trial the active one and the old one its fallback."""

    order: Order


class Revert(Asked, frozen=True):
    """Take the trial pointer back, then let the active version answer again."""
