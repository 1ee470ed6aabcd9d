"""The update's ``HookRunner``: one question at a time, on a thread of its own, endable."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.update.content import HOOKS_PREFIX
from edge_agent.update.effects import Hook, Notice
from edge_agent.update.events import Event, HookAnswer
from firmware_hooks.protocol import VERSION_DIR
from firmware_hooks.runner import HookResult, run_hook

BUNDLE_MAY_ANSWER = frozenset({"post-install", "health", "post-commit", "post-rollback"})
"""Whether a bundle is fetched and written at all, the bundle has no say in."""
TOLD_GRACE_S = 5.0
"""How long a hook that is told something may go on after the agent has ended its work."""
_END_S = 4.0
"""A hook that is ended gets two seconds between SIGTERM and SIGKILL."""

log = logging.getLogger("edge_agent")


class DeviceHooks:
    """Asks the hooks in the device's own directory, then, where enabled, those of the bundle.

    Args:
        directory: from the configuration; None for no hooks.
        post: receives ``HookAnswer``.
        from_bundle: the bundle's hooks are asked as well. They came through the same signatures and
            digests as the model, and lie in its slot; both must agree.
        monotonic_s: the clock for what is given to hooks at the end.
    """

    def __init__(
        self,
        directory: Path | None,
        post: Callable[[Event], None],
        *,
        from_bundle: bool = False,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._directory = directory
        self._post = post
        self._from_bundle = from_bundle
        self._monotonic_s = monotonic_s
        self._stop = threading.Event()
        self._running: dict[threading.Thread, threading.Event] = {}

    def start_hook(self, ticket: int, hook: Hook, facts: Mapping[str, str]) -> None:
        """Run it; a hook that is not there answers "ok"."""
        self.cancel()
        self._stop = stop = threading.Event()

        def run() -> None:
            result = self._ask(hook, facts, stop)
            self._post(HookAnswer(ticket, result.answer, result.reason))

        self._start(run, hook, stop)

    def tell(self, notice: Notice, facts: Mapping[str, str]) -> None:
        """Run it to its end, whatever comes next; what it answers is logged."""

        stop = threading.Event()

        def run() -> None:
            result = self._ask(notice, facts, stop)
            if result.reason:
                log.warning("%s", result.reason)

        self._start(run, notice, stop)

    def cancel(self) -> None:
        """End a running hook."""
        self._stop.set()

    def close(self, *, grace_s: float = TOLD_GRACE_S) -> None:
        """Leave no hook behind: end the one that is asked, then what is still told after a while.

        Args:
            grace_s: how long that while is, all of them together.
        """
        self.cancel()
        until_s = self._monotonic_s() + grace_s
        for thread in self._running:
            thread.join(max(0.0, until_s - self._monotonic_s()))
        for thread, stop in self._running.items():
            stop.set()
            thread.join(_END_S)

    def _start(self, run: Callable[[], None], hook: str, stop: threading.Event) -> None:
        self._running = {t: e for t, e in self._running.items() if t.is_alive()}
        thread = threading.Thread(target=run, name=f"hook-{hook}", daemon=True)
        self._running[thread] = stop
        thread.start()

    def _ask(
        self, hook: Hook | Notice, facts: Mapping[str, str], stop: threading.Event
    ) -> HookResult:
        result = run_hook(self._directory, hook, facts, stop=stop)
        if result.answer != "ok" or not self._from_bundle or hook not in BUNDLE_MAY_ANSWER:
            return result
        theirs = Path(facts["SLOT_DIR"]) / HOOKS_PREFIX
        if not (theirs / VERSION_DIR).is_dir():
            return result
        return run_hook(theirs, hook, facts, stop=stop)
