"""The trial's judge: does the new version, on this device, stay within its health spec? Pure.

p95 is the nearest rank: the smallest latency that at least 95 % of the answered frames do not
exceed. So "p95 above the limit" is the same as "more than 5 % of the frames above the limit",
which a counter decides exactly, in constant memory; the p95 that a reason names is read from
buckets 2 % wide.

A limit may be broken *convincingly* before the trial is over: from ``EARLY_FRAMES`` frames on,
when the count above it exceeds its allowed share by three standard errors of a binomial count,
``k > n p + 3 sqrt(n p (1 - p))``. A version far outside is then gone after a few dozen frames; one
at its limit is judged at the end.

The limit is a multiple of what the version before takes on the same device. Where that version runs
some of the trial's own frames as a control, both meet the same load and heat, and the larger of the
two baselines counts: a device that is busy for a minute must not blame the model for it.
"""

from __future__ import annotations

import math
from collections import deque
from typing import NamedTuple

from edge_contract.health import HealthSpec

EARLY_FRAMES = 50
"""Frames from which an early verdict may be given, or ``frames_min`` where that is less."""

_EARLY_FRAMES_MIN = 20
"""But never before this many: one slow frame in a handful says nothing."""

_CONTROLS_MIN = 15
"""Fewer controls have no p95 to speak of."""

_SLOW_SHARE = 0.05
_BUCKET = math.log(1.02)
_SMALLEST_MS = 1e-3

BASELINE_FRAMES = 1000
_BASELINE_FRAMES_MIN = 20


class Verdict(NamedTuple):
    """What the judge found; ``reason`` is a sentence with figures, "" for healthy."""

    reason: str = ""

    @property
    def healthy(self) -> bool:
        """Whether the version may be committed."""
        return not self.reason


class TrialJudge:
    """Judges one version over one run of the agent.

    Args:
        spec: what the trial must show; already tightened by the device's own policy.
        baseline_p95_ms: p95 of inference on the version before, on this device; None where there
            was none, then only the absolute limit holds.
        started_s: monotonic seconds at which the trial began.
        restarts: unexplained restarts of the agent in this trial so far.
    """

    def __init__(
        self,
        spec: HealthSpec,
        baseline_p95_ms: float | None,
        *,
        started_s: float = 0.0,
        restarts: int = 0,
    ) -> None:
        self.spec = spec
        self.baseline_p95_ms = baseline_p95_ms
        self.restarts = restarts
        self.frames = 0
        self.errors = 0
        self._started_s = started_s
        self._slow = 0
        self._latencies = _Latencies()
        self._controls = _Latencies()
        self.limit_ms = spec.latency_p95_max_ms
        if baseline_p95_ms is not None:
            self.limit_ms = min(self.limit_ms, baseline_p95_ms * spec.latency_p95_ratio_max)

    def observe(self, infer_ms: float, ok: bool) -> None:
        """Count one frame; ``infer_ms`` of a failed one is not looked at."""
        self.frames += 1
        if not ok:
            self.errors += 1
            return
        # A latency that is no number must not read as a fast one.
        self._slow += not infer_ms <= self.limit_ms
        self._latencies.add(infer_ms)

    def observe_control(self, infer_ms: float) -> None:
        """Count one frame that the version before ran beside the trial."""
        self._controls.add(infer_ms)

    @property
    def latency_p95_ms(self) -> float:
        """p95 of the answered frames, at most 2 % too high; NaN without any."""
        return self._latencies.p95_ms

    def verdict(self, now_s: float) -> Verdict | None:
        """None while there is nothing to say yet.

        Args:
            now_s: monotonic seconds.
        """
        spec = self.spec
        elapsed_s = now_s - self._started_s
        if self.restarts > spec.restarts_max:
            return Verdict(
                f"{self.restarts} unexplained restarts during the trial, limit {spec.restarts_max}"
            )
        if elapsed_s >= spec.trial_s and self.frames >= spec.frames_min:
            return self._broken(early=False) or Verdict()
        if self.frames >= max(_EARLY_FRAMES_MIN, min(spec.frames_min, EARLY_FRAMES)):
            broken = self._broken(early=True)
            if broken:
                return broken
        if elapsed_s >= spec.deadline_s:
            return Verdict(
                f"only {self.frames} frames in {elapsed_s:.0f} s, at least {spec.frames_min} are"
                " needed to judge"
            )
        return None

    @property
    def _answered(self) -> int:
        return self.frames - self.errors

    def _broken(self, *, early: bool) -> Verdict | None:
        spec = self.spec
        if _exceeds(self.errors, self.frames, spec.errors_share_max, early=early):
            return Verdict(
                f"{self.errors} of {self.frames} frames failed"
                f" ({100 * self.errors / self.frames:.1f} %), limit"
                f" {100 * spec.errors_share_max:.1f} %"
            )
        if _exceeds(self._slow, self._answered, _SLOW_SHARE, early=early) and not self._excused():
            against = "absolute"
            if self.baseline_p95_ms is not None and self.limit_ms < spec.latency_p95_max_ms:
                against = (
                    f"{spec.latency_p95_ratio_max:g} times the {self.baseline_p95_ms:.2f} ms of the"
                    " version before"
                )
            return Verdict(
                f"inference p95 {self.latency_p95_ms:.2f} ms over {self._answered} frames, limit"
                f" {self.limit_ms:.2f} ms ({against})"
            )
        return None

    def _excused(self) -> bool:
        """Whether the version before is as slow now: then it is the device, not the model."""
        if self._controls.count < _CONTROLS_MIN:
            return False
        limit_ms = self._controls.p95_ms * self.spec.latency_p95_ratio_max
        return self.latency_p95_ms <= min(limit_ms, self.spec.latency_p95_max_ms)


class _Latencies:
    """Counts of latencies in buckets 2 % wide."""

    def __init__(self) -> None:
        self.count = 0
        self._buckets: dict[int, int] = {}

    def add(self, infer_ms: float) -> None:
        """Count one; what is no number counts as the slowest."""
        clipped_ms = min(max(infer_ms, _SMALLEST_MS), 1e9) if infer_ms == infer_ms else 1e9
        bucket = math.ceil(math.log(clipped_ms) / _BUCKET)
        self._buckets[bucket] = self._buckets.get(bucket, 0) + 1
        self.count += 1

    @property
    def p95_ms(self) -> float:
        """The nearest rank, at most 2 % too high; NaN without any."""
        rank = math.ceil((1 - _SLOW_SHARE) * self.count)
        for bucket in sorted(self._buckets):
            rank -= self._buckets[bucket]
            if rank <= 0:
                return math.exp(bucket * _BUCKET)
        return math.nan


class Baseline:
    """The p95 of inference over the last ``BASELINE_FRAMES`` frames of the active version."""

    def __init__(self) -> None:
        self._latencies_ms: deque[float] = deque(maxlen=BASELINE_FRAMES)

    def observe(self, infer_ms: float) -> None:
        """Take one answered frame."""
        self._latencies_ms.append(infer_ms)

    @property
    def latency_p95_ms(self) -> float | None:
        """None before there are enough frames to mean anything."""
        if len(self._latencies_ms) < _BASELINE_FRAMES_MIN:
            return None
        ordered = sorted(self._latencies_ms)
        return ordered[math.ceil((1 - _SLOW_SHARE) * len(ordered)) - 1]

    def clear(self) -> None:
        """Another version is active."""
        self._latencies_ms.clear()


def _exceeds(count: int, total: int, share: float, *, early: bool) -> bool:
    """Whether more than ``share`` of ``total`` were counted; ``early``: beyond doubt."""
    allowed = share * total
    if early:
        allowed += 3.0 * math.sqrt(share * (1.0 - share) * total)
    # ceil((1 - share) n) <= n - count must fail for the nearest rank to lie above the limit.
    return count > math.floor(allowed + 1e-9)
