"""The drift sketch: merge laws, codec, size on the wire, and the distances of counts."""

from __future__ import annotations

import contextlib
import math
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import (
    DriftSketch,
    FeatureSketch,
    distance,
    ks,
    merge_all,
    pack_range,
    psi,
    total_variation,
)

REFERENCE = DriftReference(
    features=("brightness", "contrast"),
    edges=((10.0, 20.5, 30.0), ()),
    class_ids=(0, 1),
    counts=((3, 4, 2, 1), (10,), (5, 5, 0)),
    nan_counts=(0, 0, 0),
    n=10,
)
EMPTY = DriftSketch.empty(REFERENCE)


@st.composite
def sketches(draw: st.DrawFn) -> DriftSketch:
    n = draw(st.integers(0, 10**9))
    features = []
    for size in REFERENCE.bins:
        cuts = sorted(draw(st.lists(st.integers(0, n), min_size=size, max_size=size)))
        counts = tuple(b - a for a, b in zip([0, *cuts[:-1]], cuts, strict=True))
        ends = draw(st.none() | st.tuples(*[st.floats(allow_nan=False)] * 2))
        low, high = sorted(ends) if ends else (math.inf, -math.inf)
        features.append(FeatureSketch(counts, n - cuts[-1], pack_range(low, high)))
    return DriftSketch(REFERENCE.edges_digest, n, tuple(features))


@given(sketches(), sketches())
def test_merge_is_commutative(a: DriftSketch, b: DriftSketch) -> None:
    assert a.merge(b).encode() == b.merge(a).encode()


@given(sketches(), sketches(), sketches())
def test_merge_is_associative(a: DriftSketch, b: DriftSketch, c: DriftSketch) -> None:
    assert a.merge(b).merge(c).encode() == a.merge(b.merge(c)).encode()


@given(sketches())
def test_the_empty_sketch_is_the_identity_of_merge(a: DriftSketch) -> None:
    assert a.merge(EMPTY) == a == EMPTY.merge(a)


@given(st.lists(sketches(), max_size=5), st.randoms())
def test_merging_many_in_any_order_gives_the_same_bytes(
    many: list[DriftSketch], rng: random.Random
) -> None:
    once = merge_all(many, into=EMPTY)
    rng.shuffle(many)
    assert merge_all(many, into=EMPTY).encode() == once.encode()
    assert once.n == sum(sketch.n for sketch in many)


@given(sketches())
def test_decoding_gives_back_what_was_encoded(a: DriftSketch) -> None:
    assert DriftSketch.decode(a.encode()) == a


def test_merge_keeps_counts_nan_and_range() -> None:
    a = DriftSketch(
        REFERENCE.edges_digest,
        3,
        (
            FeatureSketch((1, 0, 1, 0), 1, pack_range(5.0, 25.0)),
            FeatureSketch((3,), 0, pack_range(1.0, 2.0)),
            FeatureSketch((2, 1, 0), 0, pack_range(math.inf, -math.inf)),
        ),
    )
    both = a.merge(a)
    assert both.n == 6
    assert both.features[0].counts == (2, 0, 2, 0)
    assert both.features[0].nan_count == 2
    assert (both.features[0].minimum, both.features[0].maximum) == (5.0, 25.0)
    assert (both.features[2].minimum, both.features[2].maximum) == (math.inf, -math.inf)


def test_sketches_on_other_edges_are_refused_and_both_digests_printed() -> None:
    other = msgspec.structs.replace(REFERENCE, edges=((10.0, 20.5, 31.0), ()))
    with pytest.raises(ContractError) as caught:
        EMPTY.merge(DriftSketch.empty(other))
    assert REFERENCE.edges_digest in str(caught.value)
    assert other.edges_digest in str(caught.value)


def test_a_sketch_that_lies_about_its_edges_is_refused() -> None:
    liar = msgspec.structs.replace(EMPTY, features=EMPTY.features[:2])
    with pytest.raises(ContractError, match="unequal bins"):
        EMPTY.merge(liar)


def test_a_feature_of_32_bins_takes_at_most_128_bytes_after_a_week_at_one_hertz() -> None:
    week = 7 * 86400
    rng = random.Random(3)
    counts = [0] * 32
    for _ in range(week // 100):
        counts[rng.randrange(32)] += 100
    counts[0] += week - sum(counts) - 900
    feature = FeatureSketch(tuple(counts), 900, pack_range(-1234.5, 6789.25))
    assert sum(counts) + 900 == week
    assert len(msgspec.msgpack.encode(feature)) <= 128
    sketch = DriftSketch(REFERENCE.edges_digest, week, (feature,) * 12)
    assert len(sketch.encode()) <= 12 * 128


def test_an_hour_of_ten_bins_takes_at_most_43_bytes() -> None:
    feature = FeatureSketch((360,) * 10, 0, pack_range(0.5, 1.5))
    assert len(msgspec.msgpack.encode(feature)) <= 43


def test_range_beyond_float32_becomes_infinite_and_zero_has_one_sign() -> None:
    feature = FeatureSketch((0,), 0, pack_range(-1e300, 1e300))
    assert (feature.minimum, feature.maximum) == (-math.inf, math.inf)
    assert pack_range(-0.0, -0.0) == pack_range(0.0, 0.0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"edges_digest": "sha256:00"}, "edges digest"),
        ({"edges_digest": "sha256:" + "G" * 64}, "edges digest"),
        ({"n": 1}, "sum to n = 1"),
        ({"n": -1}, "n from 0"),
        ({"schema": 2}, "schema"),
        ({"features": (EMPTY.features[0],) * 66}, "at most 65 features"),
        ({"features": (FeatureSketch((), 0, pack_range(math.inf, -math.inf)),)}, "1 to 64 bins"),
        (
            {"features": (FeatureSketch((0,) * 65, 0, pack_range(math.inf, -math.inf)),)},
            "1 to 64 bins",
        ),
        ({"features": (FeatureSketch((-1, 1), 0, pack_range(0.0, 0.0)),)}, "from 0 up"),
    ],
)
def test_a_malformed_sketch_cannot_be_made(changes: dict[str, object], words: str) -> None:
    with pytest.raises(ContractError, match=words):
        msgspec.structs.replace(EMPTY, **changes)


@pytest.mark.parametrize("data", [b"", b"\0" * 7, pack_range(2.0, 1.0), pack_range(math.nan, 1.0)])
def test_a_malformed_range_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError, match=r"range of 8|min <= max"):
        FeatureSketch((0,), 0, data)


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_contract_errors(data: bytes) -> None:
    with pytest.raises(ContractError):
        DriftSketch.decode(data)


@given(sketches(), st.integers(0, 10**6), st.binary(max_size=3))
def test_damaged_bytes_raise_nothing_but_contract_errors(
    sketch: DriftSketch, position: int, patch: bytes
) -> None:
    data = sketch.encode()
    at = position % len(data)
    with contextlib.suppress(ContractError):
        DriftSketch.decode(data[:at] + patch + data[at + 1 :])


def test_nesting_and_oversize_are_refused() -> None:
    with pytest.raises(ContractError):
        DriftSketch.decode(b"\x91" * 60_000)
    with pytest.raises(ContractError, match="at most 65536 bytes"):
        DriftSketch.decode(b"\0" * 70_000)


def test_distances_are_those_of_the_test_vectors() -> None:
    expected, observed = (10, 20, 30, 40), (40, 30, 20, 10)
    assert ks(expected, observed) == pytest.approx(0.4)
    assert total_variation(expected, observed) == pytest.approx(0.4)
    p = [10.5 / 102, 20.5 / 102, 30.5 / 102, 40.5 / 102]
    by_hand = sum((b - a) * math.log(b / a) for a, b in zip(p, reversed(p), strict=True))
    assert psi(expected, observed) == pytest.approx(by_hand)
    assert psi(expected, observed) == pytest.approx(0.87198, abs=1e-5)


def test_equal_shares_have_no_distance_and_empty_bins_do_not_count() -> None:
    assert psi((5, 0, 5), (5, 0, 5)) == 0.0
    assert psi((5, 5), (50, 20)) == psi((5, 0, 5), (50, 0, 20))
    assert ks((5, 5), (50, 50)) == 0.0
    assert ks((5, 5), (0, 0)) == 0.0
    assert total_variation((1, 0), (0, 1)) == 1.0


def test_psi_pools_what_the_reference_never_filled_and_ks_does_not() -> None:
    expected = ((0, 0, 500, 500, 0), 0)
    found = distance(expected, ((0, 100, 400, 500, 0), 0), ordered=True)
    assert found.psi == pytest.approx(0.0, abs=1e-3)
    assert found.ks == pytest.approx(0.1)
    assert found.cells == 2
    gone = distance(expected, ((1000, 0, 0, 0, 0), 0), ordered=True)
    assert gone.psi > 3
    assert gone.ks == 1.0


def test_nan_is_a_cell_of_its_own() -> None:
    found = distance(((500, 500), 0), ((250, 250), 500), ordered=True)
    assert found.cells == 3
    assert found.psi > 2
    assert found.ks == pytest.approx(0.5)


def test_classes_are_neither_ordered_nor_pooled() -> None:
    found = distance(((50, 1, 49), 0), ((1, 50, 49), 0), ordered=False)
    assert found.ks == pytest.approx(0.49)
    assert found.cells == 3


def test_distances_need_the_same_bins() -> None:
    with pytest.raises(ContractError, match="same bins"):
        distance(((1, 2), 0), ((1, 2, 3), 0), ordered=True)
