"""How much may be under way: learnt from what arrives. Pure but for what it is told about time.

In flight is twice what the path holds (goodput x shortest round trip), so that it never runs dry,
and at most two seconds of goodput, so that what else goes over the link never waits longer. A cut
link then costs little: what was under way is all that is sent twice. And it is never more than a
start and an eighth of what the connection has brought, so a link that is cut again and again costs
an eighth, however fast it is.
"""

from __future__ import annotations

BLOCK_BYTES_MIN = 4 * 1024
BLOCK_BYTES_MAX = 64 * 1024
IN_FLIGHT_S = 2.0
IN_FLIGHT_MAX_BYTES = 4 << 20
START_BYTES = 64 * 1024
"""Asked for before anything is known: 2 s of 256 kbit/s."""
_PATH_GAIN = 2.0
_TRUST_SHARE = 1 / 8
"""Of what a connection has brought may be lost with it. The window then grows e-fold in eight round
trips."""
_BLOCK_S = 0.25
"""A block should not take longer: a slow link gets small ones."""
_SAMPLE_MIN_S = 0.05
_SAMPLE_MAX_S = 1.0
_SILENCE_MIN_S = 3.0
_SILENCE_MAX_S = 30.0
_SILENCE_LONGEST_S = 300.0
"""Between two questions to a server that answers none: questions cost bytes, too."""


class Pace:
    """Measures one connection.

    Args:
        rate_max_bytes_s: the owner's limit; 0 for none.
    """

    def __init__(self, rate_max_bytes_s: float = 0.0) -> None:
        self._rate_max_bytes_s = rate_max_bytes_s
        self.goodput_bytes_s = 0.0
        """As measured last; 0 before anything was."""
        self._rtt_s = 0.0
        self._sample_bytes = 0
        self._sample_since_s: float | None = None
        self._tokens_bytes = START_BYTES * 1.0
        self._tokens_s: float | None = None
        self._silence_s = _SILENCE_MIN_S
        self._silences_count = 0
        """Questions in a row that nothing came of."""
        self._brought_bytes = 0
        """By this connection, since it last lost something."""

    @property
    def window_bytes(self) -> int:
        """What may be under way."""
        if not self.goodput_bytes_s:
            return START_BYTES
        path = _PATH_GAIN * self.goodput_bytes_s * self._rtt_s + self.block_bytes
        trusted = START_BYTES + _TRUST_SHARE * self._brought_bytes
        most = min(IN_FLIGHT_S * self.goodput_bytes_s, IN_FLIGHT_MAX_BYTES, trusted)
        return int(max(min(max(path, START_BYTES), most), self.block_bytes))

    @property
    def block_bytes(self) -> int:
        """The size to ask in: a power of two from 4 to 64 KB."""
        if not self.goodput_bytes_s:
            return START_BYTES // 4
        size = BLOCK_BYTES_MIN
        while size < BLOCK_BYTES_MAX and 2 * size <= self.goodput_bytes_s * _BLOCK_S:
            size *= 2
        return size

    @property
    def silence_s(self) -> float:
        """Nothing new for so long means that what was asked for is lost; twice as long with every
        question in a row that nothing came of."""
        doubled = self._silence_s * 2.0 ** min(self._silences_count, 16)
        return max(self._silence_s, min(doubled, _SILENCE_LONGEST_S))

    def allowed_bytes(self, now_s: float) -> float:
        """What may be asked for now under the owner's limit."""
        if not self._rate_max_bytes_s:
            return float("inf")
        if self._tokens_s is not None:
            self._tokens_bytes += (now_s - self._tokens_s) * self._rate_max_bytes_s
        burst = max(self._rate_max_bytes_s, float(BLOCK_BYTES_MAX))
        self._tokens_bytes = min(self._tokens_bytes, burst)
        self._tokens_s = now_s
        return self._tokens_bytes

    def asked(self, size_bytes: int) -> None:
        """So much was asked for."""
        self._tokens_bytes -= size_bytes

    def arrived(self, size_bytes: int, waited_s: float | None, now_s: float) -> None:
        """A block came, ``waited_s`` after it was asked for (None: nobody asked)."""
        self._brought_bytes += size_bytes
        if waited_s is not None:
            # The shortest is the path; it is let go slowly, for paths change.
            self._rtt_s = min(waited_s, self._rtt_s * 1.02) if self._rtt_s else waited_s
            self._silence_s = max(self._silence_s, min(_SILENCE_MAX_S, 3 * waited_s))
        if self._sample_since_s is None:
            self._sample_since_s, self._sample_bytes = now_s, 0
            return
        self._sample_bytes += size_bytes
        lasted_s = now_s - self._sample_since_s
        if lasted_s < min(max(2 * self._rtt_s, _SAMPLE_MIN_S), _SAMPLE_MAX_S):
            return
        sample = self._sample_bytes / lasted_s
        rising = sample > self.goodput_bytes_s
        self.goodput_bytes_s = sample if rising else 0.7 * self.goodput_bytes_s + 0.3 * sample
        self._sample_since_s, self._sample_bytes = now_s, 0

    def silent(self) -> None:
        """What was asked for did not come."""
        self._silences_count += 1
        self._brought_bytes = 0

    def progressed(self) -> None:
        """Something new came."""
        self._silences_count = 0

    def reconnected(self) -> None:
        """The connection is a new one, and may be cut as the one before."""
        self._silences_count = 0
        self._brought_bytes = 0

    def repeated(self) -> None:
        """Something came twice: it was slow, not lost."""
        self._silence_s = min(_SILENCE_MAX_S, self._silence_s * 1.5)

    def rested(self) -> None:
        """Nothing is under way: the pause says nothing about the link."""
        self._sample_since_s = None
