"""Exact confidence limits of bin masses, without scipy.

The limits of a binomial share (Clopper and Pearson, Biometrika 26, 1934) are quantiles of beta
distributions; the regularised incomplete beta function comes from its continued fraction (NIST
DLMF 8.17.22, evaluated by Lentz's method) and is inverted by bisection.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_BISECTIONS = 48
"""Halvings of [0, 1]: an error of 4e-15."""

_TERMS = 2000
"""A bound on the fraction's terms; it needs a few times sqrt(a + b) of them at most."""

_TINY = 1e-300


def binomial_limits(counts: npt.NDArray[np.integer], n: int, alpha: float) -> tuple[Array, Array]:
    """Clopper-Pearson limits of shares: each holds with probability at least ``1 - alpha``.

    Args:
        counts: int ``[M]``, each from 0 to ``n``.
        n: trials, at least 1.
        alpha: the chance of one *one-sided* limit being wrong, in (0, 0.5).

    Returns:
        lower and upper limits, float64 ``[M]``: the ``alpha`` quantile of Beta(c, n - c + 1)
        and the ``1 - alpha`` quantile of Beta(c + 1, n - c).
    """
    distinct, where = np.unique(counts.astype(np.float64), return_inverse=True)
    lower = np.zeros(len(distinct))
    upper = np.ones(len(distinct))
    some, not_all = distinct > 0, distinct < n
    lower[some] = _beta_quantile(distinct[some], n - distinct[some] + 1, alpha)
    # 1 - X is Beta(b, a) when X is Beta(a, b): the small tail alpha keeps its digits.
    upper[not_all] = 1 - _beta_quantile(n - distinct[not_all], distinct[not_all] + 1, alpha)
    return lower[where], upper[where]


def _beta_quantile(a: Array, b: Array, probability: float) -> Array:
    """The quantile of Beta(a, b), from below by at most 2^-48 so that limits err outwards."""
    low, high = np.zeros(len(a)), np.ones(len(a))
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        below = incomplete_beta(a, b, middle) < probability
        low = np.where(below, middle, low)
        high = np.where(below, high, middle)
    return low


def incomplete_beta(a: Array, b: Array, x: Array) -> Array:
    """The regularised incomplete beta function I_x(a, b) for a, b > 0 and x in (0, 1).

    DLMF 8.17.22; above the mean the mirror image 1 - I_{1-x}(b, a) (8.17.4) converges sooner.
    All arguments are float64 ``[M]``.
    """
    mirrored = x > (a + 1) / (a + b + 2)
    p, q = np.where(mirrored, b, a), np.where(mirrored, a, b)
    z = np.where(mirrored, 1 - x, x)
    log_beta = _log_gamma(p) + _log_gamma(q) - _log_gamma(p + q)
    front = np.exp(p * np.log(z) + q * np.log1p(-z) - log_beta) / p
    value = front / _fraction(p, q, z)
    result: Array = np.where(mirrored, 1 - value, value)
    return result


def _fraction(a: Array, b: Array, x: Array) -> Array:
    """1 + d1/(1 + d2/(1 + ...)) by the modified Lentz method (Thompson and Barnett, 1986)."""
    value, c, d = np.ones(len(x)), np.ones(len(x)), np.zeros(len(x))
    for term in range(1, _TERMS):
        m = term // 2
        if term % 2:
            step = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1))
        else:
            step = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m))
        d = 1 / _nonzero(1 + step * d)
        c = _nonzero(1 + step / c)
        value = value * (c * d)
        if np.all(np.abs(c * d - 1) < 1e-13):
            break
    return value


def _nonzero(values: Array) -> Array:
    return np.where(np.abs(values) < _TINY, _TINY, values)


def _log_gamma(values: Array) -> Array:
    return np.array([math.lgamma(value) for value in values.tolist()])
