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
ANNOUNCEMENT_RATE_PER_S = 0.2
ANNOUNCEMENT_BURST = 30.0
"""Under one name. Any device may announce any name, so what is announced in a device's name is not
counted against what it says itself: another could silence it so."""
ANNOUNCEMENTS_RATE_PER_S = 500.0
ANNOUNCEMENTS_BURST = 20_000.0
"""Under all names together: a fleet of 10,000 comes back at once, and names can be invented."""
BUCKETS_MAX = 20_000
_CODES = "codes"
_ANNOUNCEMENTS = "announcements"
_ANNOUNCED = "announced as "
"""No device's name holds a space."""


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
        senders = _senders(topic)
        with self._lock:
            if qos == 0:
                self._drop(senders[0], "qos 0")
                return False
            for sender in senders:
                if not self._spend(sender):
                    self._drop(sender, "too many")
                    return False
            return True

    def refuse(self, topic: str, why: str) -> None:
        """Count a message that is dropped for another reason."""
        with self._lock:
            self._drop(_senders(topic)[0], why)

    def take_dropped(self) -> dict[tuple[str, str], int]:
        """(sender, why) -> how many, since the last call."""
        with self._lock:
            dropped, self._dropped = dict(self._dropped), Counter()
        return dropped

    def _spend(self, sender: str) -> bool:
        rate, burst = _allowance(sender)
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


def _allowance(sender: str) -> tuple[float, float]:
    if sender == _CODES:
        return CODES_RATE_PER_S, CODES_BURST
    if sender == _ANNOUNCEMENTS:
        return ANNOUNCEMENTS_RATE_PER_S, ANNOUNCEMENTS_BURST
    if sender.startswith(_ANNOUNCED):
        return ANNOUNCEMENT_RATE_PER_S, ANNOUNCEMENT_BURST
    return RATE_PER_S, BURST


def _senders(topic: str) -> tuple[str, ...]:
    """Whose buckets a message is taken from, the narrowest first."""
    parts = topic.split("/", 6)
    if len(parts) < 6:
        return ("",)
    if parts[3] == EVERYONE:
        if parts[5].startswith(CODE_PREFIX):
            return (_CODES,)
        return (_ANNOUNCED + parts[5][:63], _ANNOUNCEMENTS)
    return (parts[3][:80],)
