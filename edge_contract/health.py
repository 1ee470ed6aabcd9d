"""The health spec: what a trial must show before a device commits a new version.

The fleet sends one with each ``desired``; the device's own policy may only tighten it.
"""

from __future__ import annotations

import math

import msgspec

from edge_contract.errors import ContractError


class HealthSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Limits for one trial. A malformed limit is refused; none ever reads as "off".

    trial_s: how long the new version must run before it may be committed.
    frames_min: frames it must have answered by then; fewer is a failure at the deadline.
    latency_ratio_max: p95, and median, of inference over the same device's figure on the version
        before.
    latency_p95_max_ms: absolute limit, for a first install that has nothing to compare with.
    errors_share_max: failed inferences over frames, 0..1.
    restarts_max: unexplained restarts of the agent during the trial.
    deadline_s: a trial that has not decided by then is a failure.
    """

    trial_s: float = 60.0
    frames_min: int = 100
    latency_ratio_max: float = 3.0
    latency_p95_max_ms: float = 10_000.0
    errors_share_max: float = 0.01
    restarts_max: int = 1
    deadline_s: float = 600.0

    def __post_init__(self) -> None:
        for field in (
            "trial_s",
            "latency_ratio_max",
            "latency_p95_max_ms",
            "deadline_s",
        ):
            value = getattr(self, field)
            if not (math.isfinite(value) and value > 0):
                raise ContractError(f"health.{field}: expected a number above 0, got {value}")
        if not 0 <= self.errors_share_max < 1:
            raise ContractError(
                f"health.errors_share_max: expected 0 to below 1, got {self.errors_share_max}"
            )
        if self.frames_min < 1 or self.restarts_max < 0:
            raise ContractError(
                f"health: expected frames_min >= 1 and restarts_max >= 0, got"
                f" {self.frames_min} and {self.restarts_max}"
            )
        if self.deadline_s < self.trial_s:
            raise ContractError(
                f"health.deadline_s: {self.deadline_s:g} s end before the trial of"
                f" {self.trial_s:g} s (trial_s)",
                hint=f"a deadline of the trial (--trial-deadline-s) above {self.trial_s:g} s",
            )


def tighten(asked: HealthSpec, own: HealthSpec) -> HealthSpec:
    """The stricter of the two in every limit: the device's policy is a floor."""
    trial_s = max(asked.trial_s, own.trial_s)
    return HealthSpec(
        trial_s=trial_s,
        frames_min=max(asked.frames_min, own.frames_min),
        latency_ratio_max=min(asked.latency_ratio_max, own.latency_ratio_max),
        latency_p95_max_ms=min(asked.latency_p95_max_ms, own.latency_p95_max_ms),
        errors_share_max=min(asked.errors_share_max, own.errors_share_max),
        restarts_max=min(asked.restarts_max, own.restarts_max),
        deadline_s=max(trial_s, min(asked.deadline_s, own.deadline_s)),
    )
