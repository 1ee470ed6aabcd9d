"""Performs what the update machine asks for. It decides nothing."""

from __future__ import annotations

import errno
from collections.abc import Callable

import msgspec

from edge_agent.update.effects import (
    Alarm,
    Cancel,
    Clean,
    Commit,
    Effect,
    Fetch,
    Report,
    Revert,
    RunActive,
    RunHook,
    SelfTest,
    StageFiles,
    Switch,
    Tell,
)
from edge_agent.update.events import (
    Committed,
    Event,
    SelfTestFailed,
    SlotChecked,
    StageDone,
    StageFailed,
    SwitchFailed,
)
from edge_agent.update.latency import Latency
from edge_agent.update.order import Order
from edge_agent.update.ports import (
    Aside,
    Fetcher,
    HookRunner,
    ModelHost,
    SelfTester,
    StatusSink,
)
from edge_agent.update.slots import Slots
from edge_contract.errors import WherryError

BACKGROUND = 0
"""The ticket of work that no stage waits for."""


class Ports(msgspec.Struct, frozen=True):
    """The rest of the agent, as the update sees it."""

    fetcher: Fetcher
    tester: SelfTester
    host: ModelHost
    hooks: HookRunner
    sink: StatusSink
    aside: Aside


class Executor:
    """Turns effects into calls of slots and ports. All of it runs on the loop's thread.

    Args:
        slots: recovered.
        ports: what does the work.
        baseline: asks for the latency of the active version, if measured in this run.
        trial_latency: asks for the latency that the last trial ended with, likewise.
    """

    def __init__(
        self,
        slots: Slots,
        ports: Ports,
        *,
        baseline: Callable[[], Latency | None],
        trial_latency: Callable[[], Latency | None],
    ) -> None:
        self._slots = slots
        self._ports = ports
        self._baseline = baseline
        self._trial_latency = trial_latency

    def perform(self, effect: Effect) -> Event | None:
        """Do, or start, one effect.

        Returns:
            The answer, where it is known at once.

        Raises:
            OSError: the disk refused to move the pointer; to be tried again.
        """
        ports = self._ports
        match effect:
            case Report(order, phase, reason):
                ports.sink.report(order, phase, reason)
            case Alarm(text):
                ports.sink.alarm(text)
            case Cancel():
                ports.fetcher.cancel()
                ports.hooks.cancel()
            case Clean():
                ports.host.forget_others()
                ports.aside.start(self._slots.collect_garbage)
                ports.fetcher.clean()
            case RunActive():
                ports.host.start_switch(BACKGROUND, self._slots.active())
            case Fetch(ticket, order):
                ports.fetcher.start_fetch(ticket, order)
            case RunHook(ticket, hook, order):
                ports.hooks.start_hook(ticket, hook, self._facts(hook, order))
            case Tell(notice, order, reason):
                ports.hooks.tell(notice, self._facts(notice, order, reason))
            case StageFiles(ticket, order):
                ports.aside.start(lambda: self._stage(ticket, order))
            case SelfTest(ticket, order):
                return self._self_test(ticket, order)
            case Switch(ticket, order):
                ports.aside.start(lambda: self._check_spare(ticket, order))
            case Commit(ticket, order):
                return self._commit(ticket, order)
            case Revert(ticket):
                return self._revert(ticket)
            case _:
                raise AssertionError(f"nobody performs {effect}")
        return None

    def needed_bytes(self, order: Order) -> int:
        """What filling the spare slot still takes, once the order's blobs are here."""
        if self._slots.spare(order.digest) is not None:
            return 0
        try:
            return self._slots.size_of(order, self._ports.fetcher.blob)
        except (WherryError, OSError):
            # Not readable: staging will say so in its own words.
            return 0

    def _stage(self, ticket: int, order: Order) -> Event:
        try:
            return StageDone(ticket, self._slots.stage(order, self._ports.fetcher.blob).name)
        except WherryError as error:
            return StageFailed(ticket, error.message)
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            return StageFailed(ticket, f"cannot fill the spare slot: {error}", full)

    def _self_test(self, ticket: int, order: Order) -> Event | None:
        slot = self._slots.spare(order.digest)
        if slot is None:
            return SelfTestFailed(ticket, "the spare slot no longer holds the version; damaged?")
        self._ports.tester.start_self_test(ticket, slot, order)
        return None

    def _check_spare(self, ticket: int, order: Order) -> Event:
        """Read the spare slot through, on the worker: a large version on a slow card takes long."""
        reason = ""
        try:
            self._slots.check_spare(order.digest)
        except WherryError as error:
            reason = error.message
        return SlotChecked(ticket, reason)

    def switch(self, checked: SlotChecked, order: Order) -> Event | None:
        """Switch to the version that was just checked.

        The pointer first: a version never answers frames that the disk does not know of.

        Args:
            checked: of the stage that the update is in.
            order: under way.

        Returns:
            the answer, where it is known at once.
        """
        ticket = checked.ticket
        if checked.reason:
            return SwitchFailed(ticket, checked.reason)
        try:
            slot = self._slots.begin_trial(order.digest, self._baseline())
        except WherryError as error:
            return SwitchFailed(ticket, error.message)
        except OSError as error:
            return SwitchFailed(ticket, f"cannot write the trial pointer: {error}")
        self._ports.host.start_switch(ticket, slot)
        return None

    def _commit(self, ticket: int, order: Order) -> Event:
        try:
            self._slots.commit(order.digest, self._trial_latency())
        except WherryError as error:
            return SwitchFailed(ticket, error.message)
        return Committed(ticket)

    def _revert(self, ticket: int) -> Event | None:
        """The pointer first; where the disk refuses it, the old version answers all the same."""
        try:
            slot = self._slots.revert()
        except OSError:
            self._ports.host.start_switch(BACKGROUND, self._slots.active())
            raise
        self._ports.host.start_switch(ticket, slot)
        return None

    def _facts(self, hook: str, order: Order, reason: str = "") -> dict[str, str]:
        """What a hook is told; the runner makes environment variables of it."""
        old = self._slots.active()
        name = self._slots.pointer.trial or self._slots.spare_name()
        if hook == "post-commit":
            name, old = self._slots.pointer.active, self._slots.fallback()
        return {
            "STATE": hook,
            "MODEL_NAME": order.line,
            "VERSION": order.version,
            "DIGEST": order.digest,
            "SLOT": name,
            "SLOT_DIR": str(self._slots.directory(name)),
            "OLD_VERSION": old.version if old else "",
            "OLD_DIGEST": old.digest if old else "",
            "ROLLOUT": order.rollout,
            "REASON": reason,
        }
