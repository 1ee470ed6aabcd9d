"""The non-inferiority bound against literature, algebra and brute force; and the verdicts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import optimize, stats

from compiler.proof.gate import (
    Z,
    judge,
    lower_bound,
    samples_needed,
    score,
    score_bound,
    upper_bound,
)

COUNTS = st.tuples(st.integers(1, 3000), st.integers(0, 60), st.integers(0, 60)).filter(
    lambda c: c[1] + c[2] <= c[0] and c[1] + c[2] > 0
)


def yang_quartic(n: int, lost: int, gained: int, z: float) -> list[float]:
    """Real roots of the quartic whose extreme roots are Tango's limits.

    Yang, Sun, Hardin, "A non-iterative implementation of Tango's score confidence interval for a
    paired difference of proportions", Statistics in Medicine 32 (2013).
    """
    g, d, s = z * z, lost - gained, lost + gained
    coefficients = [
        n**2 * (n / g + 1) ** 2,
        -n * d * (n / g + 1) * (4 * n / g + 1),
        2 * n * d**2 * (3 * n / g + 2) / g - n**2 * (s / g + 1),
        n * d * (2 * s / g + 1) - d**3 * (4 * n / g + 1) / g,
        d**2 * (d**2 / g - s) / g,
    ]
    return [float(r.real) for r in np.roots(coefficients) if abs(r.imag) < 1e-4]


def test_interval_of_the_published_airway_example() -> None:
    # Fagerland, Lydersen, Laake, Statistics in Medicine 33 (2014): 1 and 7 discordant of 21,
    # two-sided 95 % score interval -0.517 to -0.026.
    z = stats.norm.ppf(0.975)
    assert score_bound(21, 1, 7, -z) == pytest.approx(-0.026, abs=5e-4)
    assert score_bound(21, 1, 7, z) == pytest.approx(-0.517, abs=5e-4)


@given(COUNTS)
def test_bounds_are_the_extreme_roots_of_the_quartic(counts: tuple[int, int, int]) -> None:
    n, lost, gained = counts
    roots = yang_quartic(n, lost, gained, Z)
    assert upper_bound(n, lost, gained) == pytest.approx(max(roots), abs=2e-5)
    assert lower_bound(n, lost, gained) == pytest.approx(min(roots), abs=2e-5)


@pytest.mark.parametrize(
    ("n", "lost", "gained", "drop"),
    [(100, 5, 2, 0.1), (800, 3, 6, 0.01), (50, 0, 4, 0.02), (300, 4, 0, 0.03)],
)
def test_score_uses_the_maximum_likelihood_nuisance(
    n: int, lost: int, gained: int, drop: float
) -> None:
    def minus_log_likelihood(p_gained: float) -> float:
        p_lost = p_gained + drop
        return -float(
            stats.multinomial.logpmf(
                [lost, gained, n - lost - gained], n, [p_lost, p_gained, 1 - p_lost - p_gained]
            )
        )

    best = optimize.minimize_scalar(
        minus_log_likelihood,
        bounds=(1e-12, (1 - drop) / 2),
        method="bounded",
        options={"xatol": 1e-12},
    ).x
    expected = (lost - gained - n * drop) / math.sqrt(n * (2 * best + drop * (1 - drop)))
    assert score(n, lost, gained, drop) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("n", "p_lost", "p_gained"), [(120, 0.03, 0.01), (200, 0.02, 0.02)])
def test_upper_bound_covers_the_true_drop_nineteen_times_in_twenty(
    n: int, p_lost: float, p_gained: float
) -> None:
    covered = 0.0
    for lost in range(25):
        for gained in range(25):
            mass = stats.multinomial.pmf(
                [lost, gained, n - lost - gained], n, [p_lost, p_gained, 1 - p_lost - p_gained]
            )
            covered += float(mass) * (upper_bound(n, lost, gained) >= p_lost - p_gained)
    assert 0.93 < covered < 0.99


def test_no_flip_at_all_needs_299_samples_for_one_point() -> None:
    assert judge(298, 0, 0, 1.0).verdict == "insufficient"
    assert judge(298, 0, 0, 1.0).samples_needed == 299
    assert judge(299, 0, 0, 1.0).verdict == "pass"
    assert judge(299, 0, 0, 1.0).drop_upper_pp == pytest.approx(0.997, abs=1e-3)


def test_1240_samples_give_80_percent_power_at_2_percent_discordant_pairs() -> None:
    # At a true drop of zero against a limit of 1 pp.
    n, discordant = 1240, 0.02
    half, power = discordant / 2, 0.0
    for lost in range(45):
        for gained in range(45):
            if upper_bound(n, lost, gained) <= 0.01:
                mass = stats.multinomial.pmf(
                    [lost, gained, n - lost - gained], n, [half, half, 1 - discordant]
                )
                power += float(mass)
    assert power == pytest.approx(0.80, abs=0.05)


@given(COUNTS, st.floats(0.05, 20))
def test_verdict_follows_the_bounds(counts: tuple[int, int, int], limit_pp: float) -> None:
    n, lost, gained = counts
    result = judge(n, lost, gained, limit_pp)
    assert result.drop_lower_pp <= result.drop_pp + 1e-9
    assert result.drop_pp <= result.drop_upper_pp + 1e-9
    expected = (
        "pass"
        if result.drop_upper_pp <= limit_pp
        else "fail"
        if result.drop_lower_pp > limit_pp
        else "insufficient"
    )
    assert result.verdict == expected
    assert (result.samples_needed is not None) <= (result.verdict == "insufficient")


@given(st.integers(50, 3000), st.integers(0, 20), st.integers(0, 20))
def test_a_further_lost_flip_never_helps(n: int, lost: int, gained: int) -> None:
    assert upper_bound(n, lost + 1, gained) > upper_bound(n, lost, gained) - 1e-12
    if lost + gained:  # with no flip at all the exact bound stands in
        assert upper_bound(n, lost, gained + 1) <= upper_bound(n, lost, gained) + 1e-12


def test_samples_needed_pass_at_the_same_flip_rates() -> None:
    needed = samples_needed(400, 4, 4, 0.01)
    assert needed is not None
    assert upper_bound(needed, 4 * needed / 400, 4 * needed / 400) <= 0.01
    assert upper_bound(needed - 1, 4 * (needed - 1) / 400, 4 * (needed - 1) / 400) > 0.01


def test_a_drop_above_the_limit_names_no_number_of_samples() -> None:
    result = judge(200, 3, 0, 1.0)
    assert result.verdict == "insufficient"
    assert result.samples_needed is None
    assert "more samples will not" in result.reason


def test_convincing_drop_fails() -> None:
    result = judge(1000, 60, 5, 1.0)
    assert result.verdict == "fail"
    assert "at least" in result.reason


@pytest.mark.parametrize(
    ("n", "lost", "gained", "limit"),
    [(0, 0, 0, 1.0), (10, 6, 5, 1.0), (10, -1, 0, 1.0), (10, 0, 0, 0.0), (10, 0, 0, math.nan)],
)
def test_impossible_counts_and_limits_are_refused(
    n: int, lost: int, gained: int, limit: float
) -> None:
    with pytest.raises(ValueError, match=r"cannot be|must lie"):
        judge(n, lost, gained, limit)
