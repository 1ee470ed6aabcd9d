"""How much one device may say: a token bucket each, so that a flood costs its sender alone.

What is over the quota is acknowledged to the broker and dropped before it is verified or stored; a
device that means well sends it again, because nothing was acknowledged end to end.
"""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Callable

from edge_contract.topics import CODE_PREFIX, EVERYONE

RATE_PER_S = 500.0
BURST = 5000.0
"""A device that comes back with a full spool sends in bursts of 128 and waits for each."""
CODES_RATE_PER_S = 50.0
CODES_BURST = 500.0
"""All asks of strangers together: 50 a second enrol 10,000 devices in 200 s."""
BUCKETS_MAX = 20_000
_CODES = "codes"


class Quota:
    """Thread-safe; decides by the topic's text alone, which may be anything.

    Args:
        monotonic_s: seconds that never go back.
    """

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._monotonic_s = monotonic_s
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._dropped: Counter[tuple[str, str]] = Counter()
        self._lock = threading.Lock()

    def admits(self, topic: str, qos: int) -> bool:
        """Whether to take a message in.

        Whatever a device says to the manager is said at QoS 1, which the broker paces by what is
        acknowledged; at QoS 0 nothing would hold a flood back, so that is refused.
        """
        sender = _sender(topic)
        with self._lock:
            if qos == 0:
                self._drop(sender, "qos 0")
                return False
            if self._spend(sender):
                return True
            self._drop(sender, "too many")
            return False

    def take_dropped(self) -> dict[tuple[str, str], int]:
        """(sender, why) -> how many, since the last call."""
        with self._lock:
            dropped, self._dropped = dict(self._dropped), Counter()
        return dropped

    def _spend(self, sender: str) -> bool:
        rate, burst = (CODES_RATE_PER_S, CODES_BURST) if sender == _CODES else (RATE_PER_S, BURST)
        now_s = self._monotonic_s()
        tokens, at_s = self._buckets.pop(sender, (burst, now_s))
        tokens = min(burst, tokens + (now_s - at_s) * rate)
        spent = tokens >= 1
        self._buckets[sender] = (tokens - 1 if spent else tokens, now_s)
        while len(self._buckets) > BUCKETS_MAX:
            self._buckets.popitem(last=False)
        return spent

    def _drop(self, sender: str, why: str) -> None:
        if (sender, why) in self._dropped or len(self._dropped) < 1000:
            self._dropped[sender, why] += 1


def _sender(topic: str) -> str:
    parts = topic.split("/", 6)
    if len(parts) < 6:
        return ""
    if parts[3] == EVERYONE:
        return _CODES if parts[5].startswith(CODE_PREFIX) else parts[5][:80]
    return parts[3][:80]
