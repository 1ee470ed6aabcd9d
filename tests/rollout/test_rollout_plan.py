"""A plan is fixed, fair to every kind of hardware, and says whom it leaves out and why."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_bench import NEW, OLD, candidates, plan_of

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.rollout import Candidate, Gate, RolloutPlan, make_plan, preview_dict, preview_text


def make(devices, **more):
    more.setdefault("hardware", ["pi4"])
    return make_plan("r1", "digits", "2.0.0", NEW, devices, **more)


def test_the_same_devices_in_any_order_get_the_same_waves():
    fleet = candidates(40)
    first = make(fleet, shares=(0.1, 0.5, 1.0), seed="s")
    again = make(list(reversed(fleet)), shares=(0.1, 0.5, 1.0), seed="s")
    assert first == again
    assert make(fleet, shares=(0.1, 0.5, 1.0), seed="t").waves != first.waves


@given(
    pi=st.integers(0, 60),
    orin=st.integers(0, 60),
    cuts=st.lists(st.floats(0.001, 0.999), max_size=4, unique=True),
    seed=st.text(max_size=5),
)
def test_every_device_is_in_one_wave_and_every_prefix_holds_each_hardware_in_its_share(
    pi, orin, cuts, seed
):
    if pi + orin == 0:
        return
    fleet = [Candidate(f"p{i}", "pi4", "digits") for i in range(pi)]
    fleet += [Candidate(f"o{i}", "orin", "digits") for i in range(orin)]
    plan = make(fleet, hardware=["pi4", "orin"], shares=(*sorted(cuts), 1.0), seed=seed)
    asked = [name for wave in plan.waves for name in wave]
    assert sorted(asked) == sorted(device.device for device in fleet)
    for end in range(1, len(asked) + 1):
        pis = sum(name.startswith("p") for name in asked[:end])
        assert abs(pis - end * pi / (pi + orin)) <= 1


def test_shares_are_cumulative_and_small_fleets_have_fewer_waves():
    shares = (0.01, 0.1, 0.5, 1.0)
    sizes = [len(wave) for wave in make(candidates(100), shares=shares).waves]
    assert sizes == [1, 9, 40, 50]
    assert [len(wave) for wave in make(candidates(3), shares=shares).waves] == [1, 1, 1]
    assert [len(wave) for wave in make(candidates(1), shares=shares).waves] == [1]


def test_devices_left_over_by_counts_form_a_last_wave():
    assert [len(wave) for wave in make(candidates(10), counts=(1, 3)).waves] == [1, 3, 6]
    assert [len(wave) for wave in make(candidates(3)).waves] == [1, 2]


@pytest.mark.parametrize(
    "waves",
    [
        {"shares": (0.5,)},
        {"shares": (0.5, 0.4, 1.0)},
        {"shares": (0.0, 1.0)},
        {"shares": ()},
        {"shares": (0.5, 1.0, 1.5)},
        {"shares": (float("nan"), 1.0)},
        {"counts": (0, 3)},
        {"counts": ()},
        {"counts": (-1,)},
        {"counts": (1,), "shares": (1.0,)},
    ],
)
def test_waves_that_leave_devices_out_or_make_no_sense_are_refused(waves):
    with pytest.raises(FleetError, match="waves: expected") as refused:
        make(candidates(10), **waves)
    assert refused.value.exit_code is ExitCode.USAGE


def test_every_device_left_out_is_listed_with_its_reason():
    plan = make(
        [
            Candidate("good", "pi4", "digits", digest=OLD),
            Candidate("jetson", "orin", "digits", digest=OLD),
            Candidate("pinned", "pi4", "digits", digest=OLD, held=True),
            Candidate("ghost", "pi4", "digits", enrolled=False),
            Candidate("stolen", "pi4", "digits", revoked=True),
            Candidate("kettle", "pi4", "kws", digest=OLD),
            Candidate("early", "pi4", "digits", digest=NEW),
        ]
    )
    assert {device.device: device.why for device in plan.ineligible} == {
        "jetson": "hardware orin, but built for pi4",
        "pinned": "held by its owner",
        "ghost": "never enrolled",
        "stolen": "its key is revoked",
        "kettle": "runs model line kws, not digits",
        "early": "already runs 2.0.0",
    }
    assert plan.waves == (("good",),)


def test_a_plan_for_nobody_is_refused_and_says_why():
    with pytest.raises(FleetError, match=r"got none of 2 \(2 held by its owner"):
        make([Candidate(f"d{i}", "pi4", "digits", held=True) for i in range(2)])
    with pytest.raises(FleetError, match="got none of 0"):
        make([])


def test_a_device_named_twice_is_refused():
    with pytest.raises(FleetError, match="'d0' is named twice"):
        make([*candidates(2), *candidates(1)])


def test_a_wave_too_small_to_ever_pass_its_gate_is_refused():
    with pytest.raises(FleetError, match=r"wave 1 has 1 devices and can never show the 2"):
        plan_of(5, waves=(1,), min_success_count=2)


def test_a_digest_of_another_form_is_refused():
    for digest in ("", "latest", "sha256:abc", "sha256:" + "G" * 64, "md5:" + "a" * 64):
        with pytest.raises(FleetError, match="expected a digest"):
            make_plan("r1", "digits", "2", digest, candidates(1), hardware=["pi4"])


def test_a_stored_plan_whose_waves_do_not_hold_its_devices_is_refused():
    good = plan_of(3)
    for waves in ((("d0",),), (("d0", "d1"), ("d1", "d2")), (("d0", "d1", "d2"), ()), ()):
        with pytest.raises(FleetError, match="wave"):
            msgspec.structs.replace(good, waves=waves)
    with pytest.raises(FleetError, match="on_abort"):
        msgspec.structs.replace(good, on_abort="explode")


def test_the_plan_as_saved_is_the_plan_that_was_previewed():
    plan = plan_of(8, waves=(1, 3), max_failures_share=0.25)
    saved = msgspec.json.decode(msgspec.json.encode(plan), type=RolloutPlan)
    assert saved == plan
    shown = preview_dict(saved)
    assert [tuple(wave["devices"]) for wave in shown["waves"]] == list(plan.waves)
    assert [wave["failures_limit"] for wave in shown["waves"]] == [0, 0, 1]
    assert shown == preview_dict(plan)


def test_the_preview_names_counts_limits_reasons_and_what_no_failure_would_leave_open():
    fleet = [*candidates(50), Candidate("jetson", "orin", "digits")]
    text = preview_text(make(fleet, counts=(50,), gate=Gate(max_failures_count=2)))
    assert "50 eligible, 1 ineligible" in text
    assert "wave 1: 50 (50 pi4)" in text
    assert "passes with 25, aborts above 2 failed" in text
    assert "up to 5.8% (95 %)" in text
    assert "not jetson: hardware orin, but built for pi4" in text
