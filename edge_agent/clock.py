"""The only place where the agent reads a clock. Everything else is handed one."""

from __future__ import annotations

import time


class SystemClock:
    """The device's clocks. The wall clock may be wrong: a Pi without a battery boots in 1970."""

    def wall_s(self) -> float:
        """Unix seconds as the device believes them."""
        return time.time()

    def monotonic_s(self) -> float:
        """Seconds that never go back; only differences mean anything."""
        return time.monotonic()
