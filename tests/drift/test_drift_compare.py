"""The fleet's comparison: KS and PSI on shared bins, and words no stronger than the counts."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edge_agent.drift.window import SketchWindow
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch, merge_all
from edge_runtime.reference import bin_indices
from fleet.drift.compare import DriftVerdict, compare, psi_by_chance
from tests.drift.conftest import Rows, Stream


def sketch_of(reference: DriftReference, rows: Rows) -> DriftSketch:
    window = SketchWindow(reference)
    for features, bins in zip(rows[0], bin_indices(reference, *rows), strict=True):
        window.add(features, bins)
    return window.take()


@pytest.mark.parametrize(
    ("shift", "verdict"),
    [
        (0.0, DriftVerdict.STABLE),
        (0.4, DriftVerdict.MODERATE),
        (1.0, DriftVerdict.MAJOR),
        (-3.0, DriftVerdict.MAJOR),
    ],
)
def test_verdict_of_merged_sketches(
    reference: DriftReference, stream: Stream, shift: float, verdict: DriftVerdict
) -> None:
    rng = np.random.default_rng(0)
    devices = [sketch_of(reference, stream(rng, 600, shift=shift)) for _ in range(5)]
    found = compare(reference, merge_all(devices, into=DriftSketch.empty(reference)))
    assert found.verdict is verdict
    assert (found.n, found.reference_n) == (3000, 5000)
    assert [feature.name for feature in found.features] == list(reference.names)
    brightness, *others = found.features
    assert brightness.verdict is verdict
    assert all(feature.verdict is DriftVerdict.STABLE for feature in others)


def test_few_samples_are_insufficient_and_not_stable(
    reference: DriftReference, stream: Stream
) -> None:
    found = compare(reference, sketch_of(reference, stream(np.random.default_rng(0), 60)))
    assert found.verdict is DriftVerdict.INSUFFICIENT
    assert compare(reference, DriftSketch.empty(reference)).verdict is DriftVerdict.INSUFFICIENT


def test_few_samples_suffice_for_a_dead_camera(reference: DriftReference, stream: Stream) -> None:
    found = compare(
        reference, sketch_of(reference, stream(np.random.default_rng(0), 60, shift=-9.0))
    )
    assert found.verdict is DriftVerdict.MAJOR
    assert found.features[0].ks > 0.8


def test_chance_level_is_exceeded_as_rarely_as_it_says(
    reference: DriftReference, stream: Stream
) -> None:
    rng = np.random.default_rng(6)
    exceeded = comparisons = 0
    for _ in range(60):
        for feature in compare(reference, sketch_of(reference, stream(rng, 500))).features:
            exceeded += feature.psi > feature.psi_by_chance
            comparisons += 1
    assert comparisons == 540
    assert exceeded <= 4, "expected about one in a thousand"


def test_chance_level_is_that_of_chi_squared() -> None:
    # Nine degrees of freedom: 27.88 is the 99.9 % quantile.
    assert psi_by_chance(10, 5000, 500) == pytest.approx(27.88 * (1 / 5000 + 1 / 500), rel=0.01)


def test_nan_counts_as_a_change(reference: DriftReference, stream: Stream) -> None:
    rows, class_ids = stream(np.random.default_rng(0), 1000)
    rows[::3, 4] = np.nan
    found = compare(reference, sketch_of(reference, (rows, class_ids)))
    ratio = found.features[4]
    assert ratio.verdict is DriftVerdict.MAJOR
    assert ratio.nan_share == pytest.approx(0.334)
    assert ratio.ks == pytest.approx(0.334, abs=0.05)


def test_the_class_distance_does_not_depend_on_class_order(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(0), 3000)
    found = [
        compare(reference, sketch_of(reference, (rows, mapped))).features[-1]
        for mapped in (class_ids % 5, class_ids % 5 * 2)
    ]
    assert [feature.ks for feature in found] == pytest.approx([0.5, 0.5], abs=0.04)
    assert {feature.verdict for feature in found} == {DriftVerdict.MAJOR}


def test_a_sketch_of_other_edges_or_with_false_ones_is_refused(reference: DriftReference) -> None:
    empty = DriftSketch.empty(reference)
    other = msgspec.structs.replace(empty, edges_digest="sha256:" + "0" * 64)
    with pytest.raises(ContractError, match="different edges") as caught:
        compare(reference, other)
    assert reference.edges_digest in str(caught.value)
    with pytest.raises(ContractError, match="expected bins"):
        compare(reference, msgspec.structs.replace(empty, features=empty.features[1:]))
