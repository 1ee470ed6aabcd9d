"""What the update needs of the rest of the agent. Each has a real side and a simulated one.

A ``start_…`` returns at once and posts its answer later, from any thread, into the queue of the
loop that owns the ``UpdateManager``; the answer carries the ticket that it was given. A new
``start_…`` of the same port makes the answer to an older one worthless: it may still be posted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from edge_agent.update.effects import Hook, Notice
from edge_agent.update.events import Event
from edge_agent.update.order import Order
from edge_agent.update.slot_files import Slot
from edge_contract.messages import Phase


class Fetcher(Protocol):
    """Brings blobs to the device."""

    def start_fetch(self, ticket: int, order: Order) -> None:
        """Pull the manifest and the layers that ``content.needed_layers`` names.

        Posts ``FetchDone`` or ``FetchFailed``. A lost link is no failure, nor is a full disk
        (``FetchWaits`` says so): it goes on when the link, or room, is back.
        """

    def cancel(self) -> None:
        """Stop; what was pulled stays for the next time."""

    def blob(self, digest: str) -> Path:
        """Where a blob lies once it is here."""

    def clean(self) -> None:
        """Forget every blob: the slots hold what is needed."""


class SelfTester(Protocol):
    """Loads a version aside and runs its golden vectors."""

    def start_self_test(self, ticket: int, slot: Slot, order: Order) -> None:
        """Posts ``SelfTestPassed`` or ``SelfTestFailed``."""


class ModelHost(Protocol):
    """Runs models on frames."""

    def start_switch(self, ticket: int, slot: Slot | None) -> None:
        """Let the version in ``slot`` answer frames; None: no version.

        Loads it aside if it is not in memory, swaps it in between two frames, keeps the one before
        until ``forget_others``. Calls are carried out in their order. Posts ``Switched``, or
        ``SwitchFailed`` with what ran before still running.
        """

    def forget_others(self) -> None:
        """Free every loaded version but the one that answers."""


class HookRunner(Protocol):
    """Asks the device's own hooks."""

    def start_hook(self, ticket: int, hook: Hook, facts: Mapping[str, str]) -> None:
        """Posts ``HookAnswer``; a hook that is not there answers "ok"."""

    def cancel(self) -> None:
        """End a running hook; one that is told something runs on."""

    def tell(self, notice: Notice, facts: Mapping[str, str]) -> None:
        """Run a hook whose answer nobody waits for."""


class StatusSink(Protocol):
    """Where the steps of an update are told."""

    def report(self, order: Order, phase: Phase, reason: str) -> None:
        """One step, for the fleet. It may come again after a restart."""

    def alarm(self, text: str) -> None:
        """A sentence for a person."""


class Aside(Protocol):
    """Does slow work beside the loop, one piece after the other."""

    def start(self, work: Callable[[], Event | None]) -> None:
        """Run ``work`` on another thread and post the event that it returns, if any."""
