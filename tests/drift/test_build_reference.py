"""Building references: even masses on fresh rows, degenerate features, inherited edges."""

from __future__ import annotations

import numpy as np
import pytest

from edge_contract.reference import DriftReference
from edge_runtime.reference import Binner, bin_indices, build_reference
from tests.drift.conftest import NAMES, Stream


def one_feature(values: np.ndarray, **options: int) -> DriftReference:
    rows = np.asarray(values, np.float64).reshape(-1, 1)
    return build_reference(rows, np.zeros(len(rows), np.int64), ["x"], classes=2, **options)


def test_decile_masses_are_even_and_counted_on_the_other_half(reference: DriftReference) -> None:
    assert reference.n == 5000
    assert reference.bins[:2] == (26, 26)
    for row in reference.counts[:2]:
        deciles = [sum(row[:9]), *row[9:17], sum(row[17:])]
        # Standard deviation of edges and masses together: sqrt(2 * .09 / 5000) = 30 of 500.
        assert all(380 < count < 620 for count in deciles)
        assert len(set(deciles)) > 1, "masses counted on the rows behind the edges are all equal"


def test_outer_bins_reach_far_beyond_the_data(reference: DriftReference) -> None:
    edges = reference.edges[0]
    assert edges[0] == pytest.approx(-1.28 - 4 * 2.56, abs=0.5)
    assert edges[-1] == pytest.approx(1.28 + 4 * 2.56, abs=0.5)
    assert sum(reference.counts[0][:6]) < 0.02 * reference.n


def test_the_same_rows_give_the_same_bytes(stream: Stream) -> None:
    rows = stream(np.random.default_rng(3), 400)
    first = build_reference(*rows, NAMES, classes=10).encode()
    assert build_reference(*rows, NAMES, classes=10).encode() == first
    assert build_reference(*rows, NAMES, classes=10, seed=1).encode() != first


def test_a_constant_feature_has_a_bin_of_its_own_and_both_sides_show() -> None:
    reference = one_feature(np.full(200, 7.0))
    assert reference.bins[0] == 3
    assert reference.counts[0] == (0, 100, 0)
    binner = Binner(reference)
    found = [int(binner.bins(np.array([x]), 0)[0]) for x in (6.9, 7.0, 7.0 + 1e-9, 7.1)]
    assert found == [0, 1, 1, 2]


def test_a_saturated_feature_keeps_fewer_bins_with_its_atom_apart() -> None:
    values = np.minimum(np.random.default_rng(0).random(2000), 0.5)
    reference = one_feature(values)
    assert reference.bins[0] < 26
    assert max(reference.counts[0]) == pytest.approx(500, abs=60)
    assert sum(reference.counts[0][-8:]) == 0, "nothing lies above what saturates"


def test_rounding_does_not_move_a_repeated_value_across_an_edge() -> None:
    values = np.repeat(np.arange(20.0), 50)
    binner = Binner(one_feature(values))
    for value in range(20):
        low, high = (binner.bins(np.array([value * (1 + e)]), 0)[0] for e in (-1e-12, 1e-12))
        assert low == high


def test_nan_is_counted_apart_and_never_becomes_an_edge() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    values[::4] = np.nan
    reference = one_feature(values)
    assert reference.nan_counts[0] + sum(reference.counts[0]) == reference.n == 200
    assert 30 < reference.nan_counts[0] < 70
    assert one_feature(np.full(100, np.nan)).bins[0] == 1


def test_infinite_values_fall_into_the_outer_bins() -> None:
    values = np.random.default_rng(0).standard_normal(400)
    values[:40] = np.inf
    binner = Binner(one_feature(values))
    assert binner.bins(np.array([np.inf]), 0)[0] == len(binner_edges(values))
    assert binner.bins(np.array([-np.inf]), 0)[0] == 0


def binner_edges(values: np.ndarray) -> tuple[float, ...]:
    return one_feature(values).edges[0]


def test_bins_of_rows_are_those_of_each_sample(reference: DriftReference, stream: Stream) -> None:
    rows, class_ids = stream(np.random.default_rng(5), 50)
    rows[7, 2] = np.nan
    found = bin_indices(reference, rows, class_ids)
    binner = Binner(reference)
    for index in range(50):
        np.testing.assert_array_equal(found[index], binner.bins(rows[index], class_ids[index]))
        for feature, edges in enumerate(reference.edges):
            value = rows[index, feature]
            expected = len(edges) + 1 if np.isnan(value) else sum(e <= value for e in edges)
            assert found[index, feature] == expected


def test_an_unknown_class_falls_into_every_other_class(reference: DriftReference) -> None:
    binner = Binner(reference)
    rows = np.zeros(len(NAMES))
    assert [binner.bins(rows, c)[-1] for c in (0, 9, 10, -1)] == [0, 9, 10, 10]


def test_of_many_classes_the_common_ones_have_bins() -> None:
    rng = np.random.default_rng(0)
    class_ids = np.where(rng.random(4000) < 0.5, rng.integers(0, 1000, 4000), 900)
    rows = rng.standard_normal((4000, 1))
    reference = build_reference(rows, class_ids, ["x"], classes=1000)
    assert reference.bins[-1] == 32
    assert 900 in reference.class_ids
    assert reference.counts[-1][-1] > 500


def test_a_new_version_inherits_the_edges_and_counts_all_its_rows(
    reference: DriftReference, stream: Stream
) -> None:
    rows = stream(np.random.default_rng(9), 300, shift=1.0)
    newer = build_reference(*rows, NAMES, classes=10, edges_from=reference)
    assert newer.edges_digest == reference.edges_digest
    assert newer.n == 300
    assert sum(newer.counts[0][17:]) > 80


def test_what_does_not_belong_together_is_refused(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(0), 100)
    with pytest.raises(ValueError, match="at least 20 rows"):
        build_reference(rows[:19], class_ids[:19], NAMES, classes=10)
    with pytest.raises(ValueError, match="rows of 2 features"):
        build_reference(rows, class_ids, ["a", "b"], classes=10)
    with pytest.raises(ValueError, match="2 to 32 bins"):
        build_reference(rows, class_ids, NAMES, classes=10, bins=1)
    with pytest.raises(ValueError, match="to inherit"):
        build_reference(rows, class_ids, NAMES[::-1], classes=10, edges_from=reference)
    with pytest.raises(ValueError, match="N class ids"):
        build_reference(rows, class_ids[:50], NAMES, classes=10, edges_from=reference)
    with pytest.raises(ValueError, match="8 drift features"):
        Binner(reference).bins(np.zeros(7), 0)
