"""Interval sets, held against Python's own sets of integers."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import ContractError
from edge_contract.intervals import IntervalSet, Overlap

ranges = st.tuples(st.integers(-30, 60), st.integers(0, 12)).map(lambda r: (r[0], r[0] + r[1]))
range_lists = st.lists(ranges, max_size=12)


def as_set(pairs: list[tuple[int, int]]) -> set[int]:
    return {value for first, last in pairs for value in range(first, last + 1)}


@given(range_lists)
def test_holds_exactly_the_integers_added(pairs: list[tuple[int, int]]) -> None:
    expected = as_set(pairs)
    got = IntervalSet(pairs)
    assert {value for value in range(-40, 90) if value in got} == expected
    assert got.count() == len(expected)
    assert bool(got) == bool(expected)


@given(range_lists)
def test_list_form_is_canonical_and_survives_json(pairs: list[tuple[int, int]]) -> None:
    got = IntervalSet(pairs)
    listed = got.to_list()
    assert all(a <= b for a, b in listed)
    assert all(left[1] + 1 < right[0] for left, right in pairwise(listed))
    assert IntervalSet.from_list(json.loads(json.dumps(listed))) == got
    assert IntervalSet(sorted(pairs, reverse=True)) == got


@given(range_lists, range_lists)
def test_union_and_difference_are_those_of_sets(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    a, b = IntervalSet(left), IntervalSet(right)
    union, difference = a.union(b), a.difference(b)
    assert as_set(list(union)) == as_set(left) | as_set(right)
    assert as_set(list(difference)) == as_set(left) - as_set(right)
    assert IntervalSet(left) == a
    assert IntervalSet(right) == b


@given(range_lists, ranges)
def test_overlap_is_none_all_or_partial(
    pairs: list[tuple[int, int]], probe: tuple[int, int]
) -> None:
    wanted = as_set([probe])
    common = wanted & as_set(pairs)
    if not common:
        expected = Overlap.DISJOINT
    elif common == wanted:
        expected = Overlap.CONTAINED
    else:
        expected = Overlap.PARTIAL
    assert IntervalSet(pairs).classify(*probe) is expected
    assert IntervalSet(pairs).covers(*probe) == (expected is Overlap.CONTAINED)


def test_unbroken_sequence_costs_one_pair() -> None:
    seen = IntervalSet()
    for seq in range(1, 10_001):
        seen.add(seq, seq)
    assert seen.to_list() == [[1, 10_000]]


def test_range_over_a_gap_is_partial_even_when_both_ends_are_known() -> None:
    assert IntervalSet([(1, 2), (4, 5)]).classify(1, 5) is Overlap.PARTIAL


def test_copy_is_independent() -> None:
    original = IntervalSet([(1, 3)])
    other = original.copy()
    other.add(9, 9)
    assert original.to_list() == [[1, 3]]


@pytest.mark.parametrize(
    "bad", [[3, 1], [1], [1, 2, 3], ["1", 2], [1.0, 2], [True, 2], "12", None, {"a": 1}]
)
def test_malformed_ranges_are_refused(bad: object) -> None:
    with pytest.raises(ContractError, match="interval"):
        IntervalSet.from_list([bad])  # type: ignore[list-item]
