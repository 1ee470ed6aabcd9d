"""What all devices may pull together, over MQTT and HTTP alike: one token bucket for both."""

from __future__ import annotations

import threading

from edge_contract.errors import ContractError

BURST_BYTES = 4e6
"""What may go at once after a rest: the largest window of one device."""


class TotalRate:
    """Thread-safe. Whoever sends takes what it sends first and then waits, so that no transport
    can starve the other by being quicker to look.

    Args:
        bytes_s: the limit; 0 for none.
        burst_bytes: what may go at once after a rest.

    Raises:
        ContractError: a limit below 0.
    """

    def __init__(self, bytes_s: float, burst_bytes: float = BURST_BYTES) -> None:
        if bytes_s < 0 or burst_bytes < 0:
            raise ContractError(
                f"expected a rate of 0 (no limit) or more, got {bytes_s}, burst {burst_bytes}"
            )
        self._bytes_s = bytes_s
        self._burst_bytes = burst_bytes
        self._left_bytes = burst_bytes
        self._updated_s: float | None = None
        self._lock = threading.Lock()

    def take(self, size_bytes: int, now_s: float) -> float:
        """Take leave to send; the seconds to wait before the next block.

        Args:
            size_bytes: of what is sent.
            now_s: monotonic seconds.
        """
        if not self._bytes_s:
            return 0.0
        with self._lock:
            rested_s = 0.0 if self._updated_s is None else max(0.0, now_s - self._updated_s)
            self._updated_s = now_s
            earned_bytes = self._left_bytes + rested_s * self._bytes_s
            self._left_bytes = min(self._burst_bytes, earned_bytes) - size_bytes
            return max(0.0, -self._left_bytes / self._bytes_s)
