"""The detector: a bounded run length, short delays, names for what moved, safe restarts."""

from __future__ import annotations

import random

import msgspec
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.drift.bets import build_bets, possible_cells, worst_case_mean
from edge_agent.drift.confidence import binomial_limits
from edge_agent.drift.detectability import expected_delay_samples, small_reference_warning
from edge_agent.drift.detector import SECONDS_PER_YEAR, DriftDetector, alarm_threshold
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_runtime.reference import bin_indices, build_reference
from tests.drift.conftest import NAMES, Stream

A_YEAR = alarm_threshold(alarms_per_device_year=1, samples_per_s=1)


def alarms_in(
    factors: npt.NDArray[np.float64],
    feature: npt.NDArray[np.int64],
    share: npt.NDArray[np.float64],
    streams: npt.NDArray[np.int64],
    threshold: float,
) -> list[tuple[int, int]]:
    """(time, stream) of the alarms of the formula, run on ``streams [T, S, F + 1]`` at once."""
    cells = np.arange(len(factors)) * factors.shape[1]
    flat = factors.ravel()
    scores = np.zeros((streams.shape[1], len(factors)))
    found = []
    for time, bins in enumerate(streams):
        scores += 1.0
        scores *= flat.take(bins.take(feature, axis=1) + cells)
        over = scores @ share >= threshold
        if over.any():
            found += [(time, int(s)) for s in np.flatnonzero(over)]
            scores[over] = 0.0
    return found


def test_mean_run_length_over_half_a_million_null_samples_is_at_least_a(
    stream: Stream,
) -> None:
    threshold, steps, streams = 1e4, 20_000, 5
    alarms = total = 0
    for seed in range(5):  # several references: the bound is over their draw as well
        rng = np.random.default_rng(seed)
        own = build_reference(*stream(rng, 4000), NAMES, classes=10)
        bets = build_bets(own)
        bins = bin_indices(own, *stream(rng, steps * streams)).reshape(steps, streams, -1)
        alarms += len(alarms_in(bets.factors, bets.feature, bets.share, bins, threshold))
        total += steps * streams
    assert total == 500_000
    assert alarms <= total / threshold


def test_run_length_holds_for_the_worst_law_in_the_box_and_fails_without_the_box() -> None:
    counts = (60, 60, 60, 60, 60, 60, 60, 60, 60, 60)
    small = DriftReference(
        features=("x",),
        edges=(tuple(float(i) for i in range(9)),),
        class_ids=(),
        counts=(counts, (600,)),
        nan_counts=(0, 0),
        n=600,
    )
    bets = build_bets(small)
    lower, upper = binomial_limits(np.array([*counts, 0]), 600, 1e-3 / (2 * possible_cells(small)))
    # Worst for bets on an upward shift: as much mass in high bins as the counts allow.
    law = lower.copy()
    for cell in range(9, -1, -1):
        law[cell] += min(upper[cell] - lower[cell], 1 - law.sum())
    assert law.sum() == pytest.approx(1.0)
    rng = np.random.default_rng(5)
    steps, streams, threshold = 4000, 100, 1000.0
    bins = np.zeros((steps, streams, 2), np.int64)
    bins[..., 0] = rng.choice(11, (steps, streams), p=law / law.sum())
    robust = alarms_in(bets.factors, bets.feature, bets.share, bins, threshold)
    assert len(robust) <= steps * streams / threshold

    mass = np.array([*counts, 0]) / 600
    trusting = np.array(
        [
            row / worst_case_mean(row[:11], mass, mass) if f == 0 else row
            for row, f in zip(bets.factors, bets.feature, strict=True)
        ]
    )
    naive = alarms_in(trusting, bets.feature, bets.share, bins, threshold)
    assert len(naive) > 3 * steps * streams / threshold, "the test would not notice a lost box"


def test_update_is_the_formula(reference: DriftReference, stream: Stream) -> None:
    rng = np.random.default_rng(2)
    parts = [bin_indices(reference, *stream(rng, 200, shift=s)) for s in (0.0, 1.5, 0.0, -1.5)]
    bins = np.concatenate(parts)
    bets = build_bets(reference)
    expected = alarms_in(bets.factors, bets.feature, bets.share, bins[:, None], 500.0)
    detector = DriftDetector(reference, threshold=500.0)
    found = [(t, 0) for t, row in enumerate(bins) if detector.update(row)]
    assert found == expected
    assert len(found) >= 4


@pytest.mark.parametrize(
    ("shift", "most"), [(1.0, 120), (-1.0, 120), (2.0, 30), (-3.0, 20), (8.0, 16)]
)
def test_shifts_are_found_quickly_at_one_alarm_a_year(
    reference: DriftReference, stream: Stream, shift: float, most: int
) -> None:
    delays = []
    for seed in range(9):
        rng = np.random.default_rng(seed)
        detector = DriftDetector(reference, threshold=A_YEAR)
        for row in bin_indices(reference, *stream(rng, 300)):
            assert detector.update(row) is None
        shifted = bin_indices(reference, *stream(rng, 1000, shift=shift))
        delays.append(next(i + 1 for i, row in enumerate(shifted) if detector.update(row)))
    assert np.median(delays) <= most


def test_an_alarm_names_what_moved_and_when(reference: DriftReference, stream: Stream) -> None:
    rng = np.random.default_rng(3)
    detector = DriftDetector(reference, threshold=A_YEAR)
    for row in bin_indices(reference, *stream(rng, 5000)):
        assert detector.update(row) is None
    shifted = bin_indices(reference, *stream(rng, 200, shift=3.0))
    delay, alarm = next((i + 1, a) for i, row in enumerate(shifted) if (a := detector.update(row)))
    assert alarm.features[0][0] == "brightness"
    assert alarm.features[0][1] > 0.9
    assert alarm.score_log >= np.log(A_YEAR)
    assert alarm.samples_since_reset == 5000 + delay
    assert abs(alarm.onset_samples_ago - delay) <= 5
    again = detector.update(shifted[0])
    assert again is None, "an alarm forgets the evidence"


def test_a_stuck_class_a_vanished_class_and_nan_are_found(
    reference: DriftReference, stream: Stream
) -> None:
    rng = np.random.default_rng(4)
    rows, class_ids = stream(rng, 3000)

    def first_alarm(bins: npt.NDArray[np.int64]) -> tuple[int, str]:
        detector = DriftDetector(reference, threshold=A_YEAR)
        return next(
            (i + 1, a.features[0][0]) for i, row in enumerate(bins) if (a := detector.update(row))
        )

    stuck = first_alarm(bin_indices(reference, rows, np.full(3000, 3)))
    assert stuck == (pytest.approx(15, abs=5), "predicted_class")
    few = first_alarm(bin_indices(reference, rows, class_ids % 5))
    assert few[0] < 400
    assert few[1] == "predicted_class"
    unknown = first_alarm(bin_indices(reference, rows, np.full(3000, -1)))
    assert unknown == (pytest.approx(10, abs=5), "predicted_class")
    rows[:, 4] = np.nan
    gone = first_alarm(bin_indices(reference, rows, class_ids))
    assert gone == (pytest.approx(10, abs=5), "ratio")


def test_output_on_a_seeded_stream_is_pinned() -> None:
    # random.random() is the same on every Python; numpy's streams may change.
    rng = random.Random(7)
    pinned = DriftReference(
        features=("x", "y"),
        edges=((0.25, 0.5, 0.75), (0.5,)),
        class_ids=(0, 1),
        counts=((500, 490, 510, 500), (990, 1010), (1200, 800, 0)),
        nan_counts=(0, 0, 0),
        n=2000,
    )
    rows = np.array([[rng.random(), rng.random()] for _ in range(400)])
    rows[200:, 0] = rows[200:, 0] ** 0.4
    class_ids = np.array([int(rng.random() < 0.4) for _ in range(400)])
    detector = DriftDetector(pinned, threshold=1e4)
    found = [
        (t, alarm)
        for t, row in enumerate(bin_indices(pinned, rows, class_ids))
        if (alarm := detector.update(row))
    ]
    assert [
        (t, a.features[0][0], a.samples_since_reset, a.onset_samples_ago) for t, a in found
    ] == [
        (247, "x", 248, 30),
        (309, "x", 62, 48),
        (352, "x", 43, 39),
    ]
    assert [a.score_log for _, a in found] == pytest.approx(
        [9.482503775286304, 9.845765476928163, 9.355382483330812], abs=1e-9
    )


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 399))
def test_a_restart_at_any_sample_changes_nothing(cut: int) -> None:
    rng = np.random.default_rng(8)
    counts = (100, 100, 100, 100)
    own = DriftReference(
        features=("x",),
        edges=((0.25, 0.5, 0.75),),
        class_ids=(0, 1),
        counts=(counts, (200, 200, 0)),
        nan_counts=(0, 0),
        n=400,
    )
    bins = np.stack([rng.integers(0, 4, 400), rng.integers(0, 2, 400)], 1)
    bins[250:, 0] = 3
    straight = DriftDetector(own, threshold=1e3)
    expected = [straight.update(row) for row in bins]
    assert any(expected)
    detector = DriftDetector(own, threshold=1e3)
    found = [detector.update(row) for row in bins[:cut]]
    restarted = DriftDetector(own, threshold=1e3)
    restarted.restore(detector.state_bytes())
    found += [restarted.update(row) for row in bins[cut:]]
    assert found == expected


@given(st.binary(max_size=200))
def test_random_state_raises_nothing_but_contract_errors(data: bytes) -> None:
    own = DriftReference(
        features=(), edges=(), class_ids=(0,), counts=((9, 1),), nan_counts=(0,), n=10
    )
    with pytest.raises(ContractError):
        DriftDetector(own, threshold=1e3).restore(data)


def test_state_of_another_reference_or_with_bad_scores_is_refused(
    reference: DriftReference,
) -> None:
    detector = DriftDetector(reference, threshold=A_YEAR)
    state = detector.state_bytes()
    fewer = msgspec.structs.replace(reference, counts=(*reference.counts[:-1], (5000, *[0] * 10)))
    with pytest.raises(ContractError, match="for reference"):
        DriftDetector(fewer, threshold=A_YEAR).restore(state)
    fields = msgspec.msgpack.decode(state)
    for scores in (b"", np.full(len(fields[2]) // 8, np.nan).tobytes()):
        with pytest.raises(ContractError, match="scores"):
            detector.restore(msgspec.msgpack.encode([*fields[:2], scores, fields[3]]))
    ones = np.ones(len(fields[2]) // 8).tobytes()
    with pytest.raises(ContractError, match="began within"):
        detector.restore(msgspec.msgpack.encode([*fields[:2], fields[2], ones]))


def test_threshold_is_samples_a_year_over_alarms_a_year() -> None:
    assert A_YEAR == SECONDS_PER_YEAR
    assert alarm_threshold(alarms_per_device_year=12, samples_per_s=5) == pytest.approx(
        5 * SECONDS_PER_YEAR / 12
    )


@pytest.mark.parametrize(("alarms", "rate"), [(0, 1), (1, 0), (-1, 1), (float("nan"), 1), (1e9, 1)])
def test_a_threshold_that_means_nothing_is_refused(alarms: float, rate: float) -> None:
    with pytest.raises(ValueError, match=r"positive|every sample"):
        alarm_threshold(alarms_per_device_year=alarms, samples_per_s=rate)


def test_a_small_reference_says_what_it_cannot_find(stream: Stream) -> None:
    rows = stream(np.random.default_rng(0), 400)
    detector = DriftDetector(build_reference(*rows, NAMES, classes=10), threshold=A_YEAR)
    warning = small_reference_warning(detector)
    assert "only 200 rows" in warning
    assert "2 standard deviations takes about" in warning


def test_a_large_reference_does_not_warn(reference: DriftReference) -> None:
    assert small_reference_warning(DriftDetector(reference, threshold=A_YEAR)) == ""


def test_expected_delay_is_near_the_delay_that_is_seen(
    reference: DriftReference, stream: Stream
) -> None:
    detector = DriftDetector(reference, threshold=A_YEAR)
    expected = expected_delay_samples(detector, 1.0)
    seen = []
    for seed in range(15):
        detector.reset()
        rows = bin_indices(reference, *stream(np.random.default_rng(seed), 2000, shift=1.0))
        seen.append(next(i + 1 for i, row in enumerate(rows) if detector.update(row)))
    assert expected == pytest.approx(np.median(seen), rel=0.5)
    assert expected_delay_samples(detector, 0.01) == float("inf")
