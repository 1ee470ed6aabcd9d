"""The monitor: thins, commissions, states the gap, alarms without flooding, outlives restarts."""

from __future__ import annotations

import contextlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drift.events import Commissioned, DeploymentGap, DriftAlarm, DriftEvent, Recovered
from edge_agent.drift.monitor import DriftMonitor, DriftSettings
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch
from edge_runtime.reference import build_reference
from tests.drift.conftest import NAMES, Rows, Stream, draw

QUICK = DriftSettings(commission_samples=1000, realarm_s=200)


def feed(
    monitor: DriftMonitor, rows: Rows, *, start_s: float = 0.0, step_s: float = 1.0
) -> list[tuple[int, DriftEvent]]:
    """(index of the sample, event) of all that the monitor says about the rows."""
    found: list[tuple[int, DriftEvent]] = []
    for index, (row, class_id) in enumerate(zip(*rows, strict=True)):
        events = monitor.observe(row, int(class_id), start_s + index * step_s)
        found += [(index, event) for event in events]
    return found


def test_a_device_is_commissioned_then_alarms_on_drift_and_recovers(
    reference: DriftReference, stream: Stream
) -> None:
    rng = np.random.default_rng(0)
    monitor = DriftMonitor(reference, QUICK)
    (at, done), (_, gap) = feed(monitor, stream(rng, 1000, shift=2.0))
    assert at == 999
    assert done == Commissioned(n=1000, warnings=())
    assert isinstance(gap, DeploymentGap)
    assert gap.worst[0] == "brightness"
    assert gap.psi["brightness"] > 1
    # What is normal here is what it was commissioned with: no alarm, though far from the bundle's.
    assert feed(monitor, stream(rng, 2000, shift=2.0), start_s=1000) == []

    found = feed(monitor, stream(rng, 500, shift=5.0), start_s=3000)
    alarms = [(index, event) for index, event in found if isinstance(event, DriftAlarm)]
    assert len(found) == len(alarms) == 3, "once in 200 s, however often the detector alarms"
    assert alarms[0][0] < 30
    assert alarms[0][1].features[0][0] == "brightness"
    assert alarms[0][1].repeats == 0
    assert alarms[1][1].repeats > 3
    assert all(b - a >= 200 for (a, _), (b, _) in pairwise(alarms))
    assert monitor.status().drifting

    found = feed(monitor, stream(rng, 1000, shift=2.0), start_s=3500)
    assert [type(event) for _, event in found] == [Recovered]
    assert not monitor.status().drifting


@pytest.mark.parametrize("home", [-8.0, 8.0])
@pytest.mark.parametrize("step", [-2.5, 2.5])
def test_a_device_far_from_the_bundle_still_sees_further_changes(
    reference: DriftReference, stream: Stream, home: float, step: float
) -> None:
    rng = np.random.default_rng(0)
    monitor = DriftMonitor(reference, DriftSettings())
    assert len(feed(monitor, stream(rng, 5000, shift=home))) == 2
    found = feed(monitor, stream(rng, 200, shift=home + step), start_s=5000)
    assert isinstance(found[0][1], DriftAlarm)
    assert found[0][0] < 100


def test_a_device_that_boots_drifted_says_so_by_the_gap(
    reference: DriftReference, stream: Stream
) -> None:
    found = feed(DriftMonitor(reference, QUICK), stream(np.random.default_rng(0), 3000, shift=4.0))
    assert [type(event) for _, event in found] == [Commissioned, DeploymentGap]


def test_samples_are_thinned_to_the_rate_and_never_above_it(
    reference: DriftReference, stream: Stream
) -> None:
    monitor = DriftMonitor(reference, DriftSettings(sample_hz=2.0))
    feed(monitor, stream(np.random.default_rng(0), 900), step_s=1 / 30)
    assert monitor.take_sketch().n == 60
    feed(monitor, stream(np.random.default_rng(0), 10), start_s=1000, step_s=10)
    assert monitor.take_sketch().n == 10, "after a pause there is no burst and no gap"
    assert not monitor.due(1090.4)
    assert monitor.due(1090.5)


def test_held_scenes_are_warned_of_when_commissioned(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(0), 100)
    held = np.repeat(rows, 10, axis=0), np.repeat(class_ids, 10)
    (_, done), _ = feed(DriftMonitor(reference, QUICK), held)[:2]
    assert isinstance(done, Commissioned)
    assert "set sample_hz below 1" in done.warnings[0]


def test_a_small_commissioned_reference_is_said_to_be_small(
    reference: DriftReference, stream: Stream
) -> None:
    monitor = DriftMonitor(reference, DriftSettings(commission_samples=200))
    (_, done), _ = feed(monitor, stream(np.random.default_rng(0), 200))
    assert isinstance(done, Commissioned)
    assert "only 200 rows" in done.warnings[0]
    assert monitor.status().warnings == done.warnings


def test_sketches_of_windows_merge_to_the_sketch_of_all(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(0), 300)
    rows[5, 2] = np.nan
    whole, parts = DriftMonitor(reference, QUICK), DriftMonitor(reference, QUICK)
    feed(whole, (rows, class_ids))
    merged = DriftSketch.empty(reference)
    for start in range(0, 300, 100):
        chunk = slice(start, start + 100)
        feed(parts, (rows[chunk], class_ids[chunk]), start_s=float(start))
        merged = merged.merge(parts.take_sketch())
    assert merged == whole.take_sketch()
    assert merged.n == 300
    assert merged.features[2].nan_count == 1
    assert merged.features[0].minimum == np.float32(rows[:, 0].min())
    assert merged.features[0].maximum == np.float32(rows[:, 0].max())
    assert parts.take_sketch() == DriftSketch.empty(reference)
    assert parts.status().windows == 4


BUNDLE = build_reference(*draw(np.random.default_rng(1), 2000), NAMES, classes=10)
JOURNEY = tuple(
    np.concatenate(parts)
    for parts in zip(
        *(draw(np.random.default_rng(s), n, shift=s) for s, n in ((0, 200), (4, 60), (0, 100))),
        strict=True,
    )
)
SHORT = DriftSettings(commission_samples=100, realarm_s=30)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 360), max_size=4), st.sampled_from([None, 150]))
def test_restarts_at_any_moments_change_neither_events_nor_sketches(
    cuts: list[int], take_at: int | None
) -> None:
    def journey(restarts: set[int]) -> tuple[list[tuple[int, DriftEvent]], list[bytes]]:
        monitor, events, sketches = DriftMonitor(BUNDLE, SHORT), [], []
        for index, (row, class_id) in enumerate(zip(*JOURNEY, strict=True)):
            if index in restarts:
                monitor = DriftMonitor(BUNDLE, SHORT, monitor.state_bytes())
            if index == take_at:
                sketches.append(monitor.take_sketch().encode())
            found = monitor.observe(row, int(class_id), float(index))
            events += [(index, event) for event in found]
        return events, [*sketches, monitor.take_sketch().encode()]

    straight = journey(set())
    assert {type(event) for _, event in straight[0]} == {
        Commissioned,
        DeploymentGap,
        DriftAlarm,
        Recovered,
    }
    assert journey(set(cuts)) == straight


@given(st.binary(max_size=300))
def test_random_state_raises_nothing_but_contract_errors(data: bytes) -> None:
    with pytest.raises(ContractError):
        DriftMonitor(BUNDLE, SHORT, data)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([50, 150]), st.floats(0, 1, exclude_max=True), st.binary(max_size=3))
def test_damaged_state_raises_nothing_but_contract_errors(
    samples: int, position: float, patch: bytes
) -> None:
    monitor = DriftMonitor(BUNDLE, SHORT)
    feed(monitor, (JOURNEY[0][:samples], JOURNEY[1][:samples]))
    data = monitor.state_bytes()
    at = int(position * len(data))
    with contextlib.suppress(ContractError):
        restarted = DriftMonitor(BUNDLE, SHORT, data[:at] + patch + data[at + 1 :])
        feed(restarted, (JOURNEY[0][:5], JOURNEY[1][:5]))
        restarted.take_sketch()


def test_state_of_another_model_version_is_refused(
    reference: DriftReference, stream: Stream
) -> None:
    newer = build_reference(
        *stream(np.random.default_rng(3), 300), NAMES, classes=10, edges_from=reference
    )
    state = DriftMonitor(reference, QUICK).state_bytes()
    with pytest.raises(ContractError, match="expected the state for reference"):
        DriftMonitor(newer, QUICK, state)


@pytest.mark.parametrize(
    "bad",
    [
        {"sample_hz": 0.0},
        {"sample_hz": float("nan")},
        {"alarms_per_device_year": -1.0},
        {"alarms_per_device_year": float("inf")},
        {"alarms_per_device_year": 1e12},
        {"commission_samples": 0},
        {"realarm_s": float("inf")},
    ],
)
def test_a_setting_that_would_silence_alarms_or_the_bound_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError):
        DriftSettings(**bad)  # type: ignore[arg-type]
