"""Bounds hold their promise in simulation, and figures are those of the literature."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from compiler.metrics.average_precision import Matches, Truth, overlaps
from compiler.metrics.bounds import mean_bound, ratio_bound, samples_for
from compiler.metrics.detection import drop_bound, judge_drop, measure_boxes
from compiler.metrics.fidelity import cosines_of, judge_cosines, measure_fidelity
from compiler.metrics.regression import judge_errors
from compiler.proof.evaluate import right_among_top
from edge_runtime.detections import Detections


def test_fieller_bounds_miss_the_true_ratio_in_about_one_case_of_twenty() -> None:
    random = np.random.default_rng(0)
    missed = 0
    for _ in range(1000):
        errors = random.exponential(1.0, 120)
        int8 = 1.05 * errors * random.lognormal(-0.02, 0.2, 120)
        # The mean of that lognormal is exp(-0.02 + 0.02) = 1.
        missed += ratio_bound(int8, errors).upper < 1.05
    assert 25 <= missed <= 85


def test_a_float_model_without_error_leaves_no_per_cent_to_speak_of() -> None:
    nothing = np.zeros(50)
    assert judge_errors(nothing, nothing, 5.0)[0].verdict == "pass"
    assert judge_errors(nothing, nothing + 1e-3, 5.0)[0].verdict == "fail"
    assert ratio_bound(nothing + 1, np.array([1e-9, *[0.0] * 49])).upper == np.inf


def test_insufficient_errors_say_how_many_would_do() -> None:
    random = np.random.default_rng(1)
    errors = random.exponential(1.0, 60)
    int8 = errors * random.lognormal(0, 0.25, 60)
    gate, _ = judge_errors(errors, int8, 5.0)
    assert gate.verdict == "insufficient"
    assert gate.samples_needed is not None
    needed = gate.samples_needed
    times = int(np.ceil(1.2 * needed / 60))
    assert judge_errors(np.tile(errors, times), np.tile(int8, times), 5.0)[0].verdict == "pass"
    few, _ = judge_errors(errors[:5], int8[:5], 5.0)
    assert (few.verdict, few.samples_needed) == ("insufficient", 30)


def test_cosines_treat_zeros_scalars_and_directions_alike() -> None:
    a = np.array([[1, 0], [0, 0], [0, 0], [1, 1]], np.float32)
    b = np.array([[0, 2], [0, 0], [1, 0], [2, 2]], np.float32)
    assert cosines_of(a, b) == pytest.approx([0, 1, 0, 1])
    scalars = np.array([[3.0], [-4.0]], np.float32)
    off = cosines_of(scalars, scalars + np.float32(0.5))
    assert off == pytest.approx(1 - 0.25 / (2 * 12.5))


def test_the_worst_output_decides_fidelity() -> None:
    random = np.random.default_rng(0)
    floating = random.normal(0, 1, (200, 12)).astype(np.float32)
    int8 = floating.copy()
    int8[:, 8:] += random.normal(0, 0.5, (200, 4)).astype(np.float32)
    found = measure_fidelity(floating, int8, ["good", "bad"], [8, 4], min_cosine=0.99, classes=None)
    assert found.gate.verdict == "fail"
    assert judge_cosines(np.ones(100), 0.99).verdict == "pass"


@given(st.integers(2, 6), st.integers(1, 6), st.integers(0, 20))
def test_top_k_is_what_a_stable_sort_says(classes: int, top_k: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    scores = random.integers(0, 3, (40, classes)).astype(np.float32)
    y = random.integers(0, classes, 40)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :top_k]
    assert (right_among_top(scores, y, top_k) == (order == y[:, None]).any(axis=1)).all()


def boxes(seed: int, images: int = 40) -> tuple[list[Detections], list[Truth]]:
    """Three classes, up to 5 true boxes an image, found with errors, and some false boxes."""
    random = np.random.default_rng(seed)
    found, truth = [], []
    for _ in range(images):
        count = int(random.integers(0, 6))
        corner = random.uniform(0, 80, (count, 2))
        real = np.hstack([corner, corner + random.uniform(8, 30, (count, 2))])
        classes = random.integers(0, 3, count)
        false = random.uniform(0, 60, (2, 2))
        moved = np.vstack([real + random.normal(0, 2, real.shape), np.hstack([false, false + 20])])
        found.append(
            Detections(
                moved.astype(np.float32),
                random.uniform(0, 1, count + 2).astype(np.float32),
                np.concatenate([classes, random.integers(0, 3, 2)]).astype(np.int64),
            )
        )
        truth.append(Truth(real, classes.astype(np.int64)))
    return found, truth


@pytest.mark.parametrize(
    ("seed", "expected"), [(0, 0.21995952694959), (1, 0.20791415869179), (2, 0.22310475367296)]
)
def test_map_is_that_of_pycocotools(seed: int, expected: float) -> None:
    # Taken once with pycocotools 2.0.11 (COCOeval, bbox, stats[0]) on the same boxes.
    assert Matches(*boxes(seed)).mean_precision() == pytest.approx(expected, abs=1e-9)


def test_weights_are_copies_of_images() -> None:
    found, truth = boxes(3, images=12)
    weights = np.array([0, 2, 1, 1, 3, 0, 1, 1, 1, 2, 0, 1])
    index = np.repeat(np.arange(12), weights)
    copied = Matches([found[i] for i in index], [truth[i] for i in index]).mean_precision()
    assert Matches(found, truth).mean_precision(weights) == pytest.approx(copied)


def test_equal_boxes_still_need_images() -> None:
    found, truth = boxes(4, images=60)
    same = drop_bound(Matches(found, truth), Matches(found, truth))
    assert same.seen == 0
    assert same.upper == pytest.approx(100 * (1 - 0.05 ** (1 / 60)))
    gate = judge_drop(60, same, 1.0)
    assert gate.verdict == "insufficient"
    assert gate.samples_needed is not None


def test_lost_boxes_fail_the_gate() -> None:
    found, truth = boxes(5, images=80)
    worse = [
        Detections(d.boxes + np.float32(6), d.scores, d.classes) if i % 2 else d
        for i, d in enumerate(found)
    ]
    measured = measure_boxes(found, worse, truth, max_drop_pp=1.0)
    assert measured.gate.verdict == "fail"
    assert measured.evidence["images_differing"] > 10


def test_overlap_is_the_same_for_any_order_of_corners() -> None:
    a = np.array([[0.0, 0, 10, 10]])
    b = np.array([[5.0, 0, 15, 10], [20, 20, 30, 30], [0, 0, 0, 0]])
    assert overlaps(a, b)[0] == pytest.approx([50 / 150, 0, 0])
    assert overlaps(a[:, [2, 3, 0, 1]], b) == pytest.approx(overlaps(a, b))


def test_bounds_of_one_sample_are_infinite_and_hopeless_limits_need_no_number() -> None:
    assert mean_bound(np.array([1.0])).upper == np.inf
    assert samples_for(100, mean_bound(np.linspace(0, 1, 100)), 0.4) is None
