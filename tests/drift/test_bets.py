"""Bets: their normalisation is the worst case over the box, for every feature there is."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import linprog

from edge_agent.drift.bets import build_bets, possible_cells, worst_case_mean
from edge_agent.drift.confidence import binomial_limits
from edge_contract.reference import DriftReference


@given(st.integers(2, 12), st.integers(0, 10_000))
def test_worst_case_mean_is_the_optimum_of_the_linear_program(size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mass = rng.dirichlet(np.ones(size))
    lower = mass * rng.random(size)
    upper = np.minimum(mass + rng.random(size) * 0.3, 1.0)
    weights = rng.random(size)
    best = linprog(
        -weights,
        A_eq=np.ones((1, size)),
        b_eq=[1.0],
        bounds=list(zip(lower, upper, strict=True)),
    )
    assert worst_case_mean(weights, lower, upper) == pytest.approx(-best.fun, rel=1e-7)


def test_no_law_in_the_box_gives_a_factor_a_mean_above_one(reference: DriftReference) -> None:
    bets = build_bets(reference)
    rng = np.random.default_rng(0)
    alpha = 1e-3 / (2 * possible_cells(reference))
    for index, counts in enumerate(reference.counts):
        factors = bets.factors[bets.feature == index][:, : len(counts)]
        assert (factors @ (np.array(counts) / reference.n) <= 1).all()
        # Bins with equal factors in every bet are one cell, and limits are on cells.
        _, cell = np.unique(factors, axis=1, return_inverse=True)
        cell = cell.ravel()  # numpy 2.0 alone gave it two axes
        mass = np.bincount(cell, counts).astype(np.int64)
        lower, upper = binomial_limits(mass, reference.n, alpha)
        per_cell = np.stack([factors[:, cell == k][:, 0] for k in range(len(mass))], 1)
        for _ in range(50):
            law = lower.copy()
            for k in rng.permutation(len(mass)):
                law[k] += min(upper[k] - lower[k], 1 - law.sum())
            assert law.sum() == pytest.approx(1.0)
            assert (per_cell @ law <= 1 + 1e-9).all()


def test_stakes_are_equal_per_feature_and_sum_to_one(reference: DriftReference) -> None:
    bets = build_bets(reference)
    assert bets.share.sum() == pytest.approx(1.0)
    per_feature = np.bincount(bets.feature, bets.share)
    np.testing.assert_allclose(per_feature, 1 / len(reference.bins))
    assert (bets.factors >= 0).all()


def test_a_feature_without_edges_and_one_that_was_always_nan_are_bet_on() -> None:
    reference = DriftReference(
        features=("constant", "gone"),
        edges=((), (1.0,)),
        class_ids=(),
        counts=((50,), (0, 0), (50,)),
        nan_counts=(0, 50, 0),
        n=50,
    )
    bets = build_bets(reference)
    assert np.isfinite(bets.factors).all()
    assert (bets.factors[bets.feature == 0][:, 1].max()) > 1, "NaN where there was none"
