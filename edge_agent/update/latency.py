"""What inference takes on this device, as two figures: the typical frame and the slow one.

Quantiles are nearest ranks: p95 is the smallest latency that at least 95 % of the answered frames
do not exceed, p50 the same of half of them.
"""

from __future__ import annotations

import math
from collections import deque

import msgspec

BASELINE_FRAMES = 1000
_BASELINE_FRAMES_MIN = 20

_BUCKET = math.log(1.02)
_SMALLEST_MS = 1e-3


class Latency(msgspec.Struct, frozen=True, kw_only=True):
    """Median and 95th percentile of inference, in ms."""

    p50_ms: float
    p95_ms: float


class LatencyCounts:
    """Counts of latencies in buckets 2 % wide: constant memory, quantiles at most 2 % too high."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, infer_ms: float) -> None:
        """Count one; what is no number counts as the slowest."""
        clipped_ms = min(max(infer_ms, _SMALLEST_MS), 1e9) if infer_ms == infer_ms else 1e9
        bucket = math.ceil(math.log(clipped_ms) / _BUCKET)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    def quantile_ms(self, share: float) -> float:
        """The nearest rank of ``share`` (0..1); NaN without any."""
        rank = math.ceil(share * self.count - 1e-9)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return math.exp(bucket * _BUCKET)
        return math.nan

    @property
    def latency(self) -> Latency | None:
        """None without any."""
        if not self.count:
            return None
        return Latency(p50_ms=self.quantile_ms(0.5), p95_ms=self.quantile_ms(0.95))


class Baseline:
    """The latency of the active version over its last ``BASELINE_FRAMES`` frames."""

    def __init__(self) -> None:
        self._latencies_ms: deque[float] = deque(maxlen=BASELINE_FRAMES)

    def observe(self, infer_ms: float) -> None:
        """Take one answered frame."""
        self._latencies_ms.append(infer_ms)

    @property
    def latency(self) -> Latency | None:
        """None before there are enough frames to mean anything."""
        if len(self._latencies_ms) < _BASELINE_FRAMES_MIN:
            return None
        ordered = sorted(self._latencies_ms)
        p50_ms, p95_ms = (
            ordered[math.ceil(share * len(ordered) - 1e-9) - 1] for share in (0.5, 0.95)
        )
        return Latency(p50_ms=p50_ms, p95_ms=p95_ms)

    def clear(self) -> None:
        """Another version is active."""
        self._latencies_ms.clear()
