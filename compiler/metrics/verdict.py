"""The verdict on a figure with bounds, whatever it measures: holds, does not, or cannot be told."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.metrics.bounds import SAMPLES_MIN, Bound, samples_for
from compiler.proof.gate import Gate, Interval, Verdict


@dataclass(frozen=True, kw_only=True)
class Words:
    """How a verdict is put.

    seen: what was seen, the beginning of every sentence.
    what, unit: of the interval, such as "drop of mAP" and "points".
    value, limit: formats of a bound and of the limit, such as "{:.2f}" and "{:g}".
    rows: what was counted, such as "images".
    likeness: "images like these about {} would tell".
    """

    seen: str
    what: str
    unit: str
    value: str
    limit: str
    rows: str = "samples"
    likeness: str = "samples like these about {} would tell"


def judge_bound(
    n: int, bound: Bound, limit: float, words: Words, *, at_least: bool = False
) -> Gate:
    """Whether a figure of ``n`` samples holds its limit, by its one-sided 95 % bound.

    Args:
        n: samples.
        bound: the figure and its bounds.
        limit: what it may be at most, or at least where ``at_least``.
        words: for the reason.
    """
    interval = Interval(
        what=words.what,
        unit=words.unit,
        seen=bound.seen,
        lower=bound.lower,
        upper=bound.upper,
        limit=limit,
        at_least=at_least,
    )
    lower, upper = words.value.format(bound.lower), words.value.format(bound.upper)
    limited = f"(limit {words.limit.format(limit)})"
    by = "" if at_least else "by "
    most = f"{words.seen}: with 95 % confidence {by}at most {upper} {limited}"
    least = f"{words.seen}: with 95 % confidence {by}at least {lower} {limited}"
    needed: int | None = None
    verdict: Verdict
    if n < SAMPLES_MIN:
        verdict, needed = "insufficient", SAMPLES_MIN
        reason = f"{words.seen}; a bound needs at least {SAMPLES_MIN} {words.rows}"
    elif bound.lower >= limit if at_least else bound.upper <= limit:
        verdict = "pass"
        reason = least if at_least else most
    elif interval.broken:
        verdict = "fail"
        reason = most if at_least else least
    else:
        verdict = "insufficient"
        needed = samples_for(n, bound, limit, at_least=at_least)
        may = f"be as low as {lower}" if at_least else f"have by {upper}"
        side = "below" if at_least else "above"
        reason = f"{words.seen} and may {may} {limited}; " + (
            f"with {words.likeness.format(needed)}"
            if needed is not None
            else f"what was seen lies at or {side} the limit, so more {words.rows} will not pass it"
        )
    return Gate(verdict=verdict, reason=reason, n=n, samples_needed=needed, interval=interval)
