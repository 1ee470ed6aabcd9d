"""The device's own hooks, asked beside the loop. Hooks of a bundle are never run here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.update.effects import Hook
from edge_agent.update.events import Event, HookAnswer
from firmware_hooks.runner import run_hook


class DeviceHooks:
    """Runs hooks from the device's own directory, each on a thread of its own.

    Args:
        directory: holds ``v1/``; None where the device has no hooks.
        post: puts an event into the loop's queue; called on the hook's thread.
    """

    def __init__(self, directory: Path | None, post: Callable[[Event], None]) -> None:
        self._directory = directory
        self._post = post
        self._stop = threading.Event()

    def start_hook(self, ticket: int, hook: Hook, facts: Mapping[str, str]) -> None:
        """Posts ``HookAnswer``. A hook that still runs is ended first."""
        self.cancel()
        self._stop = threading.Event()
        threading.Thread(
            target=self._ask,
            args=(ticket, hook, dict(facts), self._stop),
            name=f"hook-{hook}",
            daemon=True,
        ).start()

    def cancel(self) -> None:
        """End a running hook; its answer is no longer awaited."""
        self._stop.set()

    def _ask(self, ticket: int, hook: Hook, facts: dict[str, str], stop: threading.Event) -> None:
        result = run_hook(self._directory, hook, facts, stop=stop)
        if not stop.is_set():
            self._post(HookAnswer(ticket, result.answer, result.reason))
