"""Maintenance windows: when they open and how long they were open, against the definition."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge_contract.errors import ContractError
from edge_contract.window import check_window, is_open, open_for_s, opens_at_s

DAY_S = 86_400
MONDAY_S = 1_700_438_400.0
minutes = st.integers(0, 1439)


def window(begin_min: int, end_min: int) -> str:
    return "-".join(f"{m // 60:02d}:{m % 60:02d}" for m in (begin_min, end_min))


@pytest.mark.parametrize("text", ["2:00-05:00", "02:00-24:00", "02:00", "02:00-05:00 ", "-", "x"])
def test_what_is_no_window_is_refused(text: str) -> None:
    with pytest.raises(ContractError, match="expected"):
        check_window(text, what="window")


def test_a_window_of_zero_length_never_reads_as_always() -> None:
    with pytest.raises(ContractError, match="is empty"):
        check_window("02:00-02:00", what="window")


@given(minutes, minutes, st.integers(0, 3 * 1440), st.integers(0, 2 * 1440))
@example(22 * 60, 4 * 60, 23 * 60, 1440)
def test_seconds_open_are_those_of_the_minutes_that_are_open(
    begin: int, end: int, since_min: int, for_min: int
) -> None:
    if begin == end:
        return
    text, since_s = window(begin, end), MONDAY_S + since_min * 60
    counted = sum(is_open(text, since_s + minute * 60) for minute in range(for_min)) * 60
    assert open_for_s(text, since_s, since_s + for_min * 60) == counted
    assert open_for_s("", since_s, since_s + 5.5) == 5.5


@given(st.lists(st.tuples(minutes, minutes), max_size=2), minutes)
def test_windows_open_at_the_first_minute_in_which_all_are_open(
    bounds: list[tuple[int, int]], now_min: int
) -> None:
    texts = [window(a, b) for a, b in bounds if a != b]
    now_s = MONDAY_S + now_min * 60
    expected = (
        next((s for m in range(1441) if all(is_open(t, s := now_s + m * 60) for t in texts)), None)
        if texts
        else now_s
    )
    assert opens_at_s([*texts, ""], now_s) == expected
