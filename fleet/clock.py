"""The fleet side's only reader of clocks. Everything else gets one handed in."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Two clocks: ``SystemClock`` in production, a hand-driven one in tests."""

    def wall_s(self) -> float:
        """Unix seconds; may jump when the machine's time is set."""

    def monotonic_s(self) -> float:
        """Seconds since some fixed moment; never goes back."""


class SystemClock:
    """This machine's clocks."""

    def wall_s(self) -> float:
        """Unix seconds."""
        return time.time()

    def monotonic_s(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()
