"""The update's ``HookRunner``: one hook at a time, on a thread of its own, endable."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.update.effects import Hook
from edge_agent.update.events import Event, HookAnswer
from firmware_hooks.runner import run_hook


class DeviceHooks:
    """Asks the hooks in the device's own directory.

    Args:
        directory: from the configuration; None for no hooks.
        post: receives ``HookAnswer``.
    """

    def __init__(self, directory: Path | None, post: Callable[[Event], None]) -> None:
        self._directory = directory
        self._post = post
        self._stop = threading.Event()

    def start_hook(self, ticket: int, hook: Hook, facts: Mapping[str, str]) -> None:
        """Run it; a hook that is not there answers "ok"."""
        self.cancel()
        self._stop = stop = threading.Event()

        def run() -> None:
            result = run_hook(self._directory, hook, facts, stop=stop)
            self._post(HookAnswer(ticket, result.answer, result.reason))

        threading.Thread(target=run, name=f"hook-{hook}", daemon=True).start()

    def cancel(self) -> None:
        """End a running hook."""
        self._stop.set()
