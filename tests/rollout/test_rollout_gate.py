"""A safety setting that is malformed, mistyped or missing never reads as "off"."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fleet.errors import FleetError
from fleet.rollout import Gate, parse_gate
from fleet.rollout.gate import parse_count, parse_duration_s, parse_share


@pytest.mark.parametrize(
    ("written", "share"),
    [
        *[("10%", 0.1), ("0%", 0.0), ("100%", 1.0), ("2.5%", 0.025)],
        *[("0.25", 0.25), ("1.0", 1.0), ("0", 0.0), (0.1, 0.1), (1.0, 1.0), (0, 0.0)],
    ],
)
def test_shares_are_read_as_written(written, share):
    assert parse_share(written, "max_failures_share") == share


@pytest.mark.parametrize(
    "written",
    [
        *["", "%", "10", "10 %", " 10%", "10%%", "-1%", "101%", "1e1%", "ten%", "0,1", "٣%", "1"],
        *["1.5", "off", "none", "nan", 1, 2, -0.1, 1.1, math.nan, math.inf, True, False, None, []],
    ],
)
def test_a_malformed_share_is_refused(written):
    with pytest.raises(FleetError, match="max_failures_share: expected"):
        parse_share(written, "max_failures_share")


@pytest.mark.parametrize("written", ["", "-1", "1.0", "1e3", " 1", "٣", -1, 1.0, True, None])
def test_a_malformed_count_is_refused(written):
    with pytest.raises(FleetError, match="max_failures_count: expected"):
        parse_count(written, "max_failures_count")


@pytest.mark.parametrize(
    ("written", "seconds"), [("90s", 90), ("10m", 600), ("1.5h", 5400), ("1d", 86400), (5, 5)]
)
def test_durations_are_read_as_written(written, seconds):
    assert parse_duration_s(written, "soak_s") == seconds


@pytest.mark.parametrize("written", ["", "10", "5 m", "m", "-5m", "5w", -1, math.inf, True, None])
def test_a_malformed_duration_is_refused(written):
    with pytest.raises(FleetError, match="soak_s: expected"):
        parse_duration_s(written, "soak_s")


def test_a_mistyped_setting_is_refused_and_not_ignored():
    with pytest.raises(FleetError, match="got 'max_failure_share'"):
        parse_gate({"max_failure_share": "10%"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"max_failure_count": 9}', type=Gate)


def test_a_gate_without_a_failure_setting_bears_no_failure():
    assert Gate().limit(1000) == 0
    assert parse_gate({"soak_s": "5m"}).limit(1000) == 0


def test_with_both_limits_the_stricter_one_holds():
    gate = parse_gate({"max_failures_share": "10%", "max_failures_count": "3"})
    assert [gate.limit(n) for n in (9, 10, 29, 100)] == [0, 1, 2, 3]


@given(percent=st.integers(0, 100))
def test_a_percentage_of_100_devices_is_exactly_that_many(percent):
    share = parse_share(f"{percent}%", "x")
    assert Gate(max_failures_share=share).limit(100) == percent
    assert Gate(quorum_share=share).needed(100) == max(1, percent)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_failures_share": "10%"},
        {"max_failures_share": math.nan},
        {"max_failures_share": True},
        {"max_failures_count": 1.5},
        {"max_failures_count": -1},
        {"min_success_count": 0},
        {"quorum_share": 1.01},
        {"quorum_share": None},
        {"soak_s": -1},
        {"soak_s": math.inf},
        {"wave_deadline_s": 0},
        {"wave_deadline_s": math.inf},
    ],
)
def test_no_gate_can_be_built_around_the_parser(settings):
    with pytest.raises(FleetError, match="gate setting"):
        Gate(**settings)


@given(
    name=st.sampled_from(Gate.__struct_fields__),
    value=st.text("0123456789.%-+esmh ", max_size=5) | st.floats() | st.integers(-2, 200),
)
def test_whatever_is_written_is_a_valid_gate_or_refused(name, value):
    try:
        gate = parse_gate({name: value})
    except FleetError:
        return
    assert gate.limit(100) >= 0
    assert gate.needed(100) >= 1
