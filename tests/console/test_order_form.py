"""The form's texts, the orders that they mean, and the small charts' geometry."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import WherryError
from fleet.console import words
from fleet.console.charts import HEIGHT, WIDTH, histogram_pair, state_bar
from fleet.console.order_form import fingerprint, read_order, texts_of
from fleet.errors import FleetError
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from tests.console.scene import Scene


def test_untouched_form_means_what_the_command_line_means_without_options() -> None:
    order = read_order(texts_of({"version": "digits 1.0.0"}))
    assert order == RolloutOrder(line="digits", version="1.0.0", counts=[1])


def test_every_setting_reaches_the_order() -> None:
    order = read_order(
        texts_of(
            {
                "version": "digits 1.0.0",
                "waves": "10%,100%",
                "devices": "cam-1, cam-2",
                "on_abort": "return",
                "window": "22:00-04:00",
                "max_failures": "10%",
                "quorum_share": "80%",
                "min_success_count": "2",
                "soak_s": "5m",
                "wave_deadline_s": "2h",
                "trial_s": "90s",
                "errors_share_max": "0.05",
                "restarts_max": "0",
            }
        )
    )
    assert order.shares == [0.1, 1.0]
    assert order.devices == ["cam-1", "cam-2"]
    assert (order.on_abort, order.window) == ("return", "22:00-04:00")
    assert order.gate == Gate(
        max_failures_share=0.1,
        quorum_share=0.8,
        min_success_count=2,
        soak_s=300,
        wave_deadline_s=7200,
    )
    assert (order.health.trial_s, order.health.restarts_max) == (90, 0)


@pytest.mark.parametrize(
    "texts",
    [
        {"max_failures": "few"},
        {"max_failures": "-1"},
        {"quorum_share": "150%"},
        {"trial_s": "soon"},
        {"frames_min": "many"},
        {"latency_ratio_max": "nan"},
        {"latency_p95_max_ms": "inf"},
        {"deadline_s": "1s"},
        {"on_abort": "shrug"},
    ],
)
def test_nonsense_is_refused_and_never_read_as_off(texts: dict[str, str]) -> None:
    with pytest.raises(WherryError):
        read_order(texts_of({"version": "digits 1.0.0", **texts}))


def test_fingerprint_is_of_the_plan_and_not_of_the_moment(scene: Scene) -> None:
    def plan(**texts: str) -> str:
        order = read_order(texts_of({"version": "digits 1.2.0", **texts}))
        return fingerprint(scene.service.plan_rollout(order, who="ann"))

    assert plan() == plan()
    assert len({plan(), plan(waves="2,100%"), plan(soak_s="1m"), plan(devices="cam-01")}) == 4


def test_unpublished_version_gives_no_plan(scene: Scene) -> None:
    order = read_order(texts_of({"version": "digits 9.0.0"}))
    with pytest.raises(FleetError, match="not published"):
        scene.service.plan_rollout(order, who="ann")


@given(st.lists(st.tuples(st.sampled_from(list(words.PHASE.values())), st.integers(0, 10_000))))
def test_state_bar_fills_its_width_and_hides_nobody(
    counts: list[tuple[words.Look, int]],
) -> None:
    segments = state_bar(counts)
    assert [s.number for s in segments] == [number for _, number in counts if number]
    assert all(s.width >= 8 for s in segments)
    for left, right in pairwise(segments):
        assert right.x > left.x + left.width
    if segments:
        assert segments[0].x == 0
        assert segments[-1].x + segments[-1].width == pytest.approx(WIDTH)


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=1, max_size=64))
def test_histogram_shows_shares_of_two_samples_of_any_size(counts: list[tuple[int, int]]) -> None:
    reference, observed = zip(*counts, strict=True)
    bins = histogram_pair([str(n) for n in range(len(counts))], reference, observed)
    heights = [h for bin in bins for h in (bin.reference_height, bin.observed_height)]
    assert all(0 <= height <= HEIGHT + 1e-9 for height in heights)
    for total, shares in (
        (sum(reference), sum(bin.reference for bin in bins)),
        (sum(observed), sum(bin.observed for bin in bins)),
    ):
        assert shares == pytest.approx(1.0 if total else 0.0)


@pytest.mark.parametrize(
    ("past_s", "told"),
    [(0, "just now"), (47, "40 s ago"), (200, "3 min ago"), (9000, "2 h ago"), (4e5, "5 d ago")],
)
def test_age_is_told_coarsely(past_s: float, told: str) -> None:
    assert words.ago(1_000_000 - past_s, 1_000_000) == told
