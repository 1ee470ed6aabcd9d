"""The ridge of a rebuild is chosen by samples that the weights were not fitted to."""

from __future__ import annotations

import numpy as np

from compiler.prune.dense import Array
from compiler.prune.moments import Moments
from compiler.prune.rebuild import SHRINK, SHRINKS, choose_shrink


def sums(x: Array, t: Array) -> Moments:
    n = float(len(x))
    return Moments(x.T @ x, x.T @ t, (t * t).sum(0), x.sum(0), t.sum(0), n)


def folded(rows: int, noise: float) -> tuple[Moments, Array]:
    """A layer whose weights have to change a little, seen through ``noise``."""
    random = np.random.default_rng(6)
    before = random.normal(0, 1, (40, 6))
    after = before + random.normal(0, 0.3, before.shape)
    x = random.normal(0, 1, (rows, 40))
    t = x @ after + random.normal(0, noise, (rows, 6))
    held = np.arange(rows) % 4 == 3
    whole = sums(x, t)
    parts = sums(x[~held], t[~held]), sums(x[held], t[held])
    fields = (whole.xx, whole.xt, whole.tt, whole.x, whole.t, whole.n)
    return Moments(*fields, folds=parts), before


def test_few_noisy_rows_are_held_firmly_and_many_clear_ones_hardly() -> None:
    alive = np.arange(40)
    few, before = folded(80, 6.0)
    many, same = folded(4000, 0.1)
    assert choose_shrink(few, before, alive) == SHRINKS[-1]
    assert choose_shrink(many, same, alive) == SHRINKS[0]


def test_moments_about_the_means_keep_their_folds() -> None:
    moments, _ = folded(80, 1.0)
    centred = moments.centred()
    assert centred.folds is not None
    assert moments.folds is not None
    np.testing.assert_allclose(centred.folds[0].xx, moments.folds[0].centred().xx)


def test_without_folds_there_is_a_default() -> None:
    moments, before = folded(80, 1.0)
    whole = Moments(moments.xx, moments.xt, moments.tt, moments.x, moments.t, moments.n)
    assert choose_shrink(whole, before, np.arange(40)) == SHRINK
