"""Did accuracy hold? A one-sided non-inferiority test on paired answers, as pure arithmetic.

Every test sample was answered by the float model and by the int8 model. Only the pairs that
disagree about being right carry information: ``lost`` (float right, int8 wrong) and ``gained``
(the other way round). The true drop is ``P(lost) - P(gained)``. The gate passes when the upper
95 % bound of that drop is at most the limit, fails when its lower 95 % bound is above the limit,
and otherwise says that the samples do not suffice and how many would.

The bound is Tango's score bound: T. Tango, "Equivalence test and confidence interval for the
difference in proportions for the paired-sample design", Statistics in Medicine 17 (1998). With
no flip at all the score bound is too hopeful, so the exact one stands in for it: a drop of ``d``
shows no flip in ``n`` samples with probability at most ``(1 - d) ** n``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["pass", "fail", "insufficient"]

CONFIDENCE = 0.95
Z = 1.6448536269514722
"""The 95 % quantile of the normal distribution."""

_SAMPLES_CAP = 10_000_000
"""Above this "how many samples" is no help to anybody."""


@dataclass(frozen=True)
class Interval:
    """What a gate judged, for people.

    what, unit: such as "drop of accuracy" and "pp".
    seen, lower, upper: the estimate and its one-sided 95 % bounds.
    limit: the upper bound must not be above it, the lower not below it where ``at_least``.
    """

    what: str
    unit: str
    seen: float
    lower: float
    upper: float
    limit: float
    at_least: bool = False

    @property
    def broken(self) -> bool:
        """Whether the bound shows that the limit does not hold."""
        return self.upper < self.limit if self.at_least else self.lower > self.limit

    def sentence(self, verdict: Verdict) -> str:
        """What ``verdict`` says, as the part of a sentence."""
        sure = ", with 95 % confidence"
        if self.at_least:
            if verdict == "pass":
                return f"the {self.what} is at least {self.lower:.4f}{sure} (limit {self.limit:g})"
            side = "at least" if verdict == "insufficient" else "below"
            return f"the {self.what} is {side} {self.limit:g}" + (
                "" if verdict == "insufficient" else sure
            )
        names = {"pp": "percentage point", "points": "point"}
        word = names.get(self.unit, "per cent")
        plural = "" if self.limit == 1 or word == "per cent" else "s"
        of = {"drop of accuracy": " of accuracy", "drop of mAP": " of mAP"}.get(self.what, "")
        verb = "costs" if of else "raises the error by"
        if verdict == "pass":
            many = "" if word == "per cent" else "s"
            return (
                f"int8 {verb} at most {self.upper:.2f} {word}{many}{of}{sure}"
                f" (limit {self.limit:g})"
            )
        more = f"int8 {verb} more than {self.limit:g} {word}{plural}{of}"
        return more if verdict == "insufficient" else more + sure

    @property
    def badness(self) -> float:
        """How near the bound that counts is to the limit, or how far beyond it."""
        return self.limit - self.lower if self.at_least else self.upper - self.limit


@dataclass(frozen=True, kw_only=True)
class Gate:
    """What the gate says of ``n`` samples, whatever was measured of them.

    samples_needed: about how many test samples would pass if the others were like those seen;
        ``None`` where it passes already or more samples would not help.
    """

    verdict: Verdict
    reason: str
    n: int
    samples_needed: int | None
    interval: Interval


@dataclass(frozen=True, kw_only=True)
class GateResult(Gate):
    """What the gate says of ``n`` paired answers that are right or wrong.

    drop_pp: the observed drop of accuracy in percentage points; negative is a gain.
    drop_upper_pp, drop_lower_pp: its one-sided 95 % bounds.
    """

    flips_lost: int
    flips_gained: int
    max_drop_pp: float
    drop_pp: float
    drop_upper_pp: float
    drop_lower_pp: float


def judge(n: int, lost: int, gained: int, max_drop_pp: float) -> GateResult:
    """The verdict on ``lost`` and ``gained`` flips among ``n`` samples.

    Args:
        n: samples, at least 1.
        lost: float right, int8 wrong.
        gained: float wrong, int8 right.
        max_drop_pp: the drop that is still accepted, in percentage points, above 0.

    Raises:
        ValueError: counts that cannot be, or a limit outside (0, 100).
    """
    if n < 1 or lost < 0 or gained < 0 or lost + gained > n:
        raise ValueError(f"{lost} lost and {gained} gained flips among {n} samples cannot be")
    if not 0 < max_drop_pp < 100:
        raise ValueError(f"the accepted drop must lie between 0 and 100 pp, got {max_drop_pp}")
    limit = max_drop_pp / 100
    upper, lower = upper_bound(n, lost, gained), lower_bound(n, lost, gained)
    needed: int | None = None
    seen = f"{lost} flip{'' if lost == 1 else 's'} lost and {gained} gained among {n} samples"
    if upper <= limit:
        verdict: Verdict = "pass"
        reason = (
            f"{seen}: with 95 % confidence the drop is at most {100 * upper:.2f} pp"
            f" (limit {max_drop_pp:g})"
        )
    elif lower > limit:
        verdict = "fail"
        reason = (
            f"{seen}: with 95 % confidence the drop is at least {100 * lower:.2f} pp"
            f" (limit {max_drop_pp:g})"
        )
    else:
        verdict = "insufficient"
        needed = samples_needed(n, lost, gained, limit)
        reason = (
            f"{seen}: the drop is {100 * (lost - gained) / n:.2f} pp and may be as large as"
            f" {100 * upper:.2f} pp (limit {max_drop_pp:g})"
        )
        if needed is not None:
            reason += f"; at these flip rates about {needed} test samples would tell"
        else:
            reason += "; what was seen lies at or above the limit, so more samples will not pass it"
    return GateResult(
        verdict=verdict,
        reason=reason,
        n=n,
        flips_lost=lost,
        flips_gained=gained,
        max_drop_pp=max_drop_pp,
        drop_pp=100 * (lost - gained) / n,
        drop_upper_pp=100 * upper,
        drop_lower_pp=100 * lower,
        samples_needed=needed,
        interval=Interval(
            what="drop of accuracy",
            unit="pp",
            seen=100 * (lost - gained) / n,
            lower=100 * lower,
            upper=100 * upper,
            limit=max_drop_pp,
        ),
    )


def upper_bound(n: float, lost: float, gained: float) -> float:
    """Upper one-sided 95 % bound of ``P(lost) - P(gained)``; counts may be fractional."""
    if lost == 0 and gained == 0:
        return -math.expm1(math.log(1 - CONFIDENCE) / n)
    return score_bound(n, lost, gained, -Z)


def lower_bound(n: float, lost: float, gained: float) -> float:
    """Lower one-sided 95 % bound: the upper one with the two models' parts exchanged."""
    return -upper_bound(n, gained, lost)


def samples_needed(n: int, lost: int, gained: int, limit: float) -> int | None:
    """The fewest samples that pass ``limit`` (a fraction) at the flip rates seen.

    ``None`` where no number up to ten million would.
    """
    if lost == 0 and gained == 0:
        return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-limit))

    def passes(samples: int) -> bool:
        return upper_bound(samples, lost * samples / n, gained * samples / n) <= limit

    high = max(n, 2)
    while not passes(high):
        if high >= _SAMPLES_CAP:
            return None
        high *= 2
    low = 1
    while low < high:
        middle = (low + high) // 2
        if passes(middle):
            high = middle
        else:
            low = middle + 1
    return high


def score(n: float, lost: float, gained: float, drop: float) -> float:
    """Tango's score statistic for the hypothesis that the true drop is ``drop``.

    The nuisance parameter, P(gained), is the maximum-likelihood estimate under that hypothesis:
    the larger root of ``A q^2 + B q + C = 0`` (equations 10 to 12 of the paper).
    """
    a = 2 * n
    b = -lost - gained + (2 * n - lost + gained) * drop
    c = -gained * drop * (1 - drop)
    nuisance = (math.sqrt(max(b * b - 4 * a * c, 0.0)) - b) / (2 * a)
    variance = n * (2 * nuisance + drop * (1 - drop))
    distance = lost - gained - n * drop
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def score_bound(n: float, lost: float, gained: float, z: float) -> float:
    """The drop at which the score, which falls as the drop grows, is ``z``."""
    low, high = -1.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if score(n, lost, gained, middle) > z:
            low = middle
        else:
            high = middle
    return high
