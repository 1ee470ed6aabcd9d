"""One-sided 95 % bounds of means of paired figures, as pure arithmetic.

They lean on the central limit theorem, so below ``SAMPLES_MIN`` samples nothing is said.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import stdtrit

from compiler.proof.gate import CONFIDENCE

Values = npt.NDArray[np.float64]

SAMPLES_MIN = 30
"""Below this the mean of skewed errors is not near enough to normal."""

SAMPLES_CAP = 10_000_000


@dataclass(frozen=True)
class Bound:
    """An estimate and its one-sided 95 % bounds."""

    seen: float
    lower: float
    upper: float


def t_quantile(n: int) -> float:
    """The 95 % quantile of Student's t with ``n - 1`` degrees of freedom."""
    return float(stdtrit(n - 1, CONFIDENCE)) if n > 1 else math.inf


def mean_bound(values: Values) -> Bound:
    """Of the mean of independent ``values`` (Student's t)."""
    n = len(values)
    mean = float(values.mean())
    if n < 2:
        return Bound(mean, -math.inf, math.inf)
    half = t_quantile(n) * float(values.std(ddof=1)) / math.sqrt(n)
    return Bound(mean, mean - half, mean + half)


def ratio_bound(above: Values, below: Values) -> Bound:
    """Of the ratio of two paired means, ``mean(above) / mean(below)``, both at least 0.

    Fieller's bounds: the ratios ``r`` for which the mean of ``above - r * below`` is not
    significantly different from 0 by a one-sided t test (E. C. Fieller, "Some problems in interval
    estimation", Journal of the Royal Statistical Society B 16, 1954). Unlike a bound of the
    difference against a limit taken from ``below``, this counts that ``mean(below)`` is an
    estimate, too. Where that is not significantly above 0 the bounds are infinite.
    """
    n = len(above)
    x, y = float(below.mean()), float(above.mean())
    if x <= 0:
        return Bound(math.nan, -math.inf, math.inf)
    seen = y / x
    if n < 2:
        return Bound(seen, -math.inf, math.inf)
    square = t_quantile(n) ** 2 / n
    (vxx, vxy), (_, vyy) = np.cov(below, above).tolist()
    a = x * x - square * vxx
    if a <= 0:
        return Bound(seen, -math.inf, math.inf)
    b = x * y - square * vxy
    c = y * y - square * vyy
    root = math.sqrt(max(b * b - a * c, 0.0))
    return Bound(seen, (b - root) / a, (b + root) / a)


def samples_for(n: int, bound: Bound, limit: float, *, at_least: bool = False) -> int | None:
    """About how many samples would pass if the others were like these ``n``.

    The distance between estimate and bound shrinks with the square root of the number. ``None``
    where the estimate itself is beyond the limit, or more than ten million would be needed.
    """
    half = bound.seen - bound.lower if at_least else bound.upper - bound.seen
    room = bound.seen - limit if at_least else limit - bound.seen
    if not room > 0 or not math.isfinite(half):
        return None
    needed = max(math.ceil(n * (half / room) ** 2), SAMPLES_MIN)
    return needed if needed <= SAMPLES_CAP else None
