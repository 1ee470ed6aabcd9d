"""The trial's judge: does the new version, on this device, stay within its health spec? Pure.

The latency is judged twice against one ratio: the slow frames (p95) and the typical one (median).
On a busy device the p95 of a fast version is mostly waiting, and hides a model that is ten times
slower; its median does not. "p95 above the limit" is the same as "more than 5 % of the frames above
the limit", and the median likewise, which counters decide exactly, in constant memory; the figures
that a reason names are read from buckets 2 % wide.

A limit may be broken *convincingly* before the trial is over: from ``EARLY_FRAMES`` frames on,
when the count above it exceeds its allowed share by three standard errors of a binomial count,
``k > n p + 3 sqrt(n p (1 - p))``. A version far outside is then gone after a few dozen frames; one
at its limit is judged at the end.

Both limits are a multiple of what the version before takes on the same device. Where that version
runs some of the trial's own frames as a control, both meet the same load and heat, and the larger
of the two baselines counts: a device that is busy for a minute must not blame the model for it.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from edge_agent.update.latency import Latency, LatencyCounts
from edge_contract.health import HealthSpec

EARLY_FRAMES = 50
"""Frames from which an early verdict may be given, or ``frames_min`` where that is less."""

_EARLY_FRAMES_MIN = 20
"""But never before this many: one slow frame in a handful says nothing."""

_CONTROLS_MIN = 15
"""Fewer controls have no p95 to speak of."""


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
        baseline: of inference on the version before, on this device; None where there was none,
            then only the absolute limit holds.
        started_s: monotonic seconds at which the trial began.
        restarts: unexplained restarts of the agent in this trial so far.
    """

    def __init__(
        self,
        spec: HealthSpec,
        baseline: Latency | None,
        *,
        started_s: float = 0.0,
        restarts: int = 0,
    ) -> None:
        self.spec = spec
        self.restarts = restarts
        self.frames = 0
        self.errors = 0
        self._started_s = started_s
        self._latencies = LatencyCounts()
        self._controls = LatencyCounts()
        limit_ms, ratio = spec.latency_p95_max_ms, spec.latency_ratio_max
        self._rules = [
            _Rule("p95", 0.95, baseline.p95_ms if baseline else None, ratio, limit_ms),
            _Rule("median", 0.5, baseline.p50_ms if baseline else None, ratio, limit_ms),
        ]

    def observe(self, infer_ms: float, ok: bool) -> None:
        """Count one frame; ``infer_ms`` of a failed one is not looked at."""
        self.frames += 1
        if not ok:
            self.errors += 1
            return
        for rule in self._rules:
            rule.observe(infer_ms)
        self._latencies.add(infer_ms)

    def observe_control(self, infer_ms: float) -> None:
        """Count one frame that the version before ran beside the trial."""
        self._controls.add(infer_ms)

    @property
    def latency(self) -> Latency | None:
        """Of the answered frames, at most 2 % too high; None without any."""
        return self._latencies.latency

    @property
    def limit_ms(self) -> float:
        """What the p95 must not exceed."""
        return self._rules[0].limit_ms

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
        for rule in self._rules:
            if _exceeds(rule.over, self._answered, 1 - rule.share, early=early):
                found_ms = self._latencies.quantile_ms(rule.share)
                if not self._excused(rule, found_ms):
                    return Verdict(
                        f"inference {rule.name} {found_ms:.2f} ms over {self._answered} frames,"
                        f" limit {rule.limit_ms:.2f} ms ({rule.against})"
                    )
        return None

    def _excused(self, rule: _Rule, found_ms: float) -> bool:
        """Whether the version before is as slow now: then it is the device, not the model."""
        if self._controls.count < _CONTROLS_MIN:
            return False
        limit_ms = self._controls.quantile_ms(rule.share) * self.spec.latency_ratio_max
        return found_ms <= min(limit_ms, self.spec.latency_p95_max_ms)


class _Rule:
    """One quantile and its limit: at most ``1 - share`` of the frames may take longer."""

    def __init__(
        self, name: str, share: float, before_ms: float | None, ratio: float, most_ms: float
    ) -> None:
        self.name = name
        self.share = share
        self.over = 0
        self.limit_ms = most_ms
        self.against = "absolute"
        if before_ms is not None and before_ms * ratio < most_ms:
            self.limit_ms = before_ms * ratio
            self.against = f"{ratio:g} times the {before_ms:.2f} ms of the version before"

    def observe(self, infer_ms: float) -> None:
        """Count one answered frame."""
        # A latency that is no number must not read as a fast one.
        self.over += not infer_ms <= self.limit_ms


def _exceeds(count: int, total: int, share: float, *, early: bool) -> bool:
    """Whether more than ``share`` of ``total`` were counted; ``early``: beyond doubt."""
    allowed = share * total
    if early:
        allowed += 3.0 * math.sqrt(share * (1.0 - share) * total)
    # ceil((1 - share) n) <= n - count must fail for the nearest rank to lie above the limit.
    return count > math.floor(allowed + 1e-9)
