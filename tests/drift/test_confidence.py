"""Confidence limits against scipy, which the device does not have."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special, stats

from edge_agent.drift.confidence import binomial_limits, incomplete_beta


@pytest.mark.parametrize("n", [1, 20, 200, 5000, 1_000_000])
@pytest.mark.parametrize("alpha", [0.025, 1e-3 / 300])
def test_limits_are_those_of_scipy(n: int, alpha: float) -> None:
    counts = np.unique(np.linspace(0, n, 60).astype(np.int64))
    lower, upper = binomial_limits(counts, n, alpha)
    expected_lower = np.where(counts > 0, stats.beta.ppf(alpha, counts, n - counts + 1), 0.0)
    expected_upper = np.where(counts < n, stats.beta.isf(alpha, counts + 1, n - counts), 1.0)
    np.testing.assert_allclose(lower, expected_lower, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(upper, expected_upper, rtol=1e-9, atol=1e-12)


def test_none_and_all_have_closed_forms() -> None:
    lower, upper = binomial_limits(np.array([0, 50]), 50, 0.01)
    assert lower[0] == 0.0
    assert upper[1] == 1.0
    assert upper[0] == pytest.approx(1 - 0.01 ** (1 / 50))
    assert lower[1] == pytest.approx(0.01 ** (1 / 50))


def test_limits_hold_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    share, n, alpha = 0.1, 200, 0.05
    lower, upper = binomial_limits(rng.binomial(n, share, 4000), n, alpha)
    assert (lower > share).mean() <= alpha
    assert (upper < share).mean() <= alpha


@given(
    st.floats(0.01, 1e4, allow_subnormal=False),
    st.floats(0.01, 1e4, allow_subnormal=False),
    st.floats(1e-6, 1 - 1e-6),
)
def test_incomplete_beta_is_that_of_scipy(a: float, b: float, x: float) -> None:
    found = incomplete_beta(np.array([a]), np.array([b]), np.array([x]))[0]
    assert found == pytest.approx(special.betainc(a, b, x), rel=1e-8, abs=1e-13)
