"""Commissioning: the device's own counts on the bundle's edges, and the gap between the two."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.drift.commission import Commissioning, deployment_gap
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_runtime.reference import bin_indices, build_reference, count_reference
from tests.drift.conftest import NAMES, Stream


def test_the_device_reference_has_the_bundle_edges_and_the_device_counts(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(2), 300, shift=1.0)
    rows[::10, 3] = np.nan
    bins = bin_indices(reference, rows, class_ids)
    commissioning = Commissioning(reference, 300)
    for row in bins:
        assert not commissioning.done
        commissioning.add(row)
    assert commissioning.done
    own = commissioning.commissioned()
    assert own == count_reference(reference, bins)
    assert own.edges_digest == reference.edges_digest
    assert own.nan_counts[3] == 30


def test_restart_in_the_middle_changes_nothing(reference: DriftReference, stream: Stream) -> None:
    bins = bin_indices(reference, *stream(np.random.default_rng(2), 200))
    straight = Commissioning(reference, 200)
    for row in bins:
        straight.add(row)
    first = Commissioning(reference, 200)
    for row in bins[:77]:
        first.add(row)
    second = Commissioning(reference, 200)
    second.restore(first.state_bytes())
    for row in bins[77:]:
        second.add(row)
    assert second.commissioned() == straight.commissioned()
    assert second.lag_correlation() == straight.lag_correlation()


def test_gap_is_near_zero_at_home_and_names_what_moved_elsewhere(
    reference: DriftReference, stream: Stream
) -> None:
    rng = np.random.default_rng(4)

    def counted(shift: float) -> DriftReference:
        return count_reference(reference, bin_indices(reference, *stream(rng, 3000, shift=shift)))

    home, away = (deployment_gap(reference, counted(shift)) for shift in (0.0, 1.0))
    assert max(home.psi.values()) < 0.03
    assert max(home.ks.values()) < 0.05
    assert away.worst[0] == "brightness"
    assert away.psi["brightness"] > 0.5
    # A normal law moved by one standard deviation: 2 * Phi(1/2) - 1 = .383.
    assert away.ks["brightness"] == pytest.approx(0.383, abs=0.04)
    assert max(value for name, value in away.psi.items() if name != "brightness") < 0.03


def test_gap_across_model_lines_is_refused(reference: DriftReference, stream: Stream) -> None:
    other = build_reference(*stream(np.random.default_rng(8), 400), NAMES, classes=10)
    with pytest.raises(ContractError, match=r"one set of edges"):
        deployment_gap(reference, other)


def test_samples_like_their_predecessors_have_a_high_lag_correlation(
    reference: DriftReference, stream: Stream
) -> None:
    rows, class_ids = stream(np.random.default_rng(2), 2000)
    fresh, held = Commissioning(reference, 2000), Commissioning(reference, 2000)
    bins = bin_indices(reference, rows, class_ids)
    for index in range(2000):
        fresh.add(bins[index])
        held.add(bins[index - index % 10])  # every scene lasts ten samples
    assert max(fresh.lag_correlation().values()) < 0.1
    assert held.lag_correlation()["brightness"] == pytest.approx(0.9, abs=0.05)


def test_too_small_a_target_is_refused(reference: DriftReference) -> None:
    with pytest.raises(ValueError, match="at least 100"):
        Commissioning(reference, 99)


@given(st.binary(max_size=200))
def test_random_state_raises_nothing_but_contract_errors(data: bytes) -> None:
    small = DriftReference(
        features=("x",),
        edges=((0.0,),),
        class_ids=(0,),
        counts=((9, 1), (9, 1)),
        nan_counts=(0, 0),
        n=10,
    )
    with pytest.raises(ContractError):
        Commissioning(small, 100).restore(data)


def test_state_on_other_edges_is_refused(reference: DriftReference, stream: Stream) -> None:
    other = build_reference(*stream(np.random.default_rng(8), 400), NAMES, classes=10)
    with pytest.raises(ContractError, match=r"on edges .* got counts on"):
        Commissioning(reference, 100).restore(Commissioning(other, 100).state_bytes())
