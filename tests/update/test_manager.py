"""Whole updates on a simulated device: what runs, what the fleet is told, what the journal says."""

from __future__ import annotations

import pytest

from edge_agent.update.effects import Hook
from edge_agent.update.events import Ordered, Withdrawn
from edge_agent.update.order import Origin
from edge_agent.update.state import Stage
from edge_contract.digest import digest_of
from tests.update.bundles import HARDWARE
from tests.update.device import Device
from tests.update.fleet import (
    EARLY,
    LATE,
    SLOW,
    UNLOADABLE,
    V1,
    V2,
    V3,
    WRONG,
    Start,
    facts,
    give,
)


def test_first_install_needs_no_version_before(start: Start) -> None:
    device = give(start(), V1, 1).settle()
    assert device.running == V1.digest
    assert device.phases(1) == [
        "accepted", "downloading", "staged", "self_test", "trial", "committed",
    ]  # fmt: skip
    assert facts(device, V1.digest) == [("entered", "A"), ("trial", "A"), ("active", "A")]
    assert device.manager.status()["active"] == {
        "slot": "A", "digest": V1.digest, "line": "digits", "version": "1.0.0",
    }  # fmt: skip


def test_versions_alternate_between_the_slots_and_the_old_one_stays_as_fallback(
    device: Device,
) -> None:
    give(device, V2, 2).settle()
    assert (device.slots.pointer.active, device.slots.pointer.fallback) == ("B", "A")
    fetched = len(device.fetched)
    give(device, V3, 3).settle()
    assert (device.slots.pointer.active, device.slots.pointer.fallback) == ("A", "B")
    assert device.running == V3.digest
    unchanged = digest_of(b"the same in every version")
    assert device.fetched.count(unchanged) == 1, "an unchanged blob is not fetched again"
    assert len(device.fetched) - fetched == 4
    assert not list((device.state_dir / "blobs").glob("*"))


def test_only_the_files_of_this_hardware_are_in_a_slot(device: Device) -> None:
    files = sorted(p.name for p in device.slots.directory("A").iterdir())
    assert files == ["drift-reference.msgpack", "model.json", "sim-board.gold", "sim-board.onnx"]


def test_swapped_weights_are_refused_by_the_self_test_and_enter_no_active_slot(
    device: Device,
) -> None:
    give(device, WRONG, 2).settle()
    assert device.phases(2)[-1] == "failed"
    assert "golden vectors differ" in device.reason(2)
    assert device.running == V1.digest
    assert WRONG.digest not in device.has_run
    assert facts(device, WRONG.digest) == [("entered", "B")]
    assert not (device.state_dir / "slots" / "B").exists(), "the refused version is collected"


def test_a_slow_version_breaks_its_health_spec_in_trial_and_the_device_returns(
    device: Device,
) -> None:
    give(device, SLOW, 2).settle()
    assert device.phases(2)[-2:] == ["trial", "rolled_back"]
    assert "limit 30.00 ms (3 times the 10.00 ms of the version before)" in device.reason(2)
    assert device.running == V1.digest
    assert facts(device, SLOW.digest) == [("entered", "B"), ("trial", "B"), ("left", "B")]
    assert device.slots.pointer.active_digest == V1.digest


def test_a_version_that_cannot_be_loaded_fails_without_ever_running(device: Device) -> None:
    give(device, UNLOADABLE, 2).settle()
    assert (device.phases(2)[-1], device.running) == ("failed", V1.digest)
    assert "refuses the model" in device.reason(2)
    assert device.slots.trial() is None


def test_an_ended_order_is_not_begun_again_by_itself_but_a_new_one_is(
    device: Device, start: Start
) -> None:
    give(device, SLOW, 2).settle()
    told = len(device.reports)
    give(device, SLOW, 2).settle()
    assert len(device.reports) == told
    device.off()
    again = give(start(), SLOW, 2).settle()
    assert again.phases(2) == ["rolled_back"], "told again once, and not begun again"
    give(again, SLOW, 3).settle()
    assert again.phases(3)[-1] == "rolled_back"


def test_an_order_for_the_active_version_is_committed_at_once(device: Device) -> None:
    fetched = len(device.fetched)
    give(device, V1, 2).settle()
    assert device.phases(2) == ["committed"]
    assert len(device.fetched) == fetched
    assert facts(device, V1.digest).count(("entered", "A")) == 1


def test_an_older_order_is_not_taken_up(device: Device) -> None:
    give(device, V2, 5).settle()
    give(device, V3, 4).settle()
    assert (device.running, device.phases(4)) == (V2.digest, [])


def test_going_back_to_the_fallback_copies_and_fetches_nothing(device: Device) -> None:
    give(device, V2, 2).settle()
    fetched = len(device.fetched)
    inode = (device.state_dir / "slots" / "A").stat().st_ino
    give(device, V1, 3).settle()
    assert (device.running, device.slots.pointer.active) == (V1.digest, "A")
    assert (device.state_dir / "slots" / "A").stat().st_ino == inode
    assert len(device.fetched) == fetched


@pytest.mark.parametrize("stage", EARLY + LATE)
def test_a_newer_order_wins_in_every_stage(device: Device, stage: Stage) -> None:
    give(device, V2, 2).settle(until=stage)
    give(device, V3, 3).settle()
    assert device.running == V3.digest
    assert device.phases(2)[-1] == ("failed" if stage in EARLY else "rolled_back")
    assert "superseded by order 1.3 (digits 3.0.0)" in device.reason(2)
    assert device.phases(3)[-1] == "committed"


@pytest.mark.parametrize("stage", EARLY + LATE)
def test_a_newer_order_for_the_version_under_way_takes_its_place(
    device: Device, stage: Stage
) -> None:
    give(device, V2, 2).settle(until=stage)
    give(device, V2, 3).settle()
    assert device.running == V2.digest
    assert (device.phases(3)[0], device.phases(3)[-1]) == ("accepted", "committed")
    assert facts(device, V2.digest) == [("entered", "B"), ("trial", "B"), ("active", "B")]


def test_a_newer_order_during_the_return_begins_after_it(device: Device) -> None:
    give(device, SLOW, 2).settle(until=Stage.ROLLING_BACK)
    give(device, V2, 3)
    give(device, V3, 4).settle()
    assert device.phases(2)[-1] == "rolled_back"
    assert device.phases(3) == ["failed"]
    assert device.running == V3.digest


@pytest.mark.parametrize("stage", [Stage.COMMITTING, Stage.ROLLING_BACK])
@pytest.mark.parametrize("origin", ["fleet", "medium"])
def test_an_order_that_the_fleet_takes_back_while_it_waits_never_begins(
    device: Device, stage: Stage, origin: Origin, monkeypatch: pytest.MonkeyPatch
) -> None:
    method = {Stage.COMMITTING: "commit", Stage.ROLLING_BACK: "revert"}[stage]
    real = getattr(device.slots, method)

    def refuses(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(device.slots, method, refuses)
    give(device, V2 if stage is Stage.COMMITTING else SLOW, 2)
    while device.manager.state.stage is not stage:
        if not device.pump():
            device.second()
    device.manager.handle(Ordered(V3.order(3, origin=origin)))
    device.manager.handle(Withdrawn("the fleet took its order back"))
    monkeypatch.setattr(device.slots, method, real)
    device.settle()
    kept = V2 if stage is Stage.COMMITTING else V1
    assert device.running == (kept if origin == "fleet" else V3).digest
    assert device.phases(3)[-1] == ("failed" if origin == "fleet" else "committed")


def test_a_hold_stops_what_was_not_switched_in_and_a_release_goes_on(
    device: Device, start: Start
) -> None:
    give(device, V2, 2).settle(until=Stage.STAGING)
    device.manager.hold()
    device.settle()
    assert device.phases(2)[-1] == "held"
    device.off()
    again = start().settle()
    assert (again.running, again.manager.status()["held"]) == (V1.digest, True)
    give(again, V3, 3).settle()
    assert (again.phases(2)[-1], again.phases(3)) == ("failed", ["held"])
    again.manager.release()
    again.settle()
    assert again.running == V3.digest


def test_a_hold_during_a_trial_lets_it_end(device: Device) -> None:
    give(device, V2, 2).settle(until=Stage.TRIAL)
    device.manager.hold()
    device.settle()
    assert device.phases(2)[-1] == "committed"
    give(device, V3, 3).settle()
    assert (device.phases(3), device.running) == (["held"], V2.digest)


@pytest.mark.parametrize(
    ("hook", "phase"),
    [("pre-install", "refused"), ("post-install", "failed"), ("health", "rolled_back")],
)
def test_a_hook_may_refuse(start: Start, hook: Hook, phase: str) -> None:
    device = start(answers={})
    give(device, V1, 1).settle()
    device.answers[hook] = "refuse"
    give(device, V2, 2).settle()
    assert (device.phases(2)[-1], device.running) == (phase, V1.digest)
    assert device.reason(2) == f"hook {hook} says refuse"


def test_a_hook_that_says_later_is_asked_again_until_the_deadline(start: Start) -> None:
    device = start(answers={"pre-install": "later"})
    began_s = device.clock.now_s
    give(device, V1, 1, deadline_ts=device.clock.wall_s() + 200)
    device.settle()
    assert device.phases(1)[-1] == "failed"
    assert "deadline passed" in device.reason(1)
    asked = [facts for facts in device.hook_facts if facts["STATE"] == "pre-install"]
    assert 2 <= len(asked) <= 4, "asked about once a minute"
    assert device.clock.now_s - began_s < 210
    give(device, V1, 2).settle(until=Stage.PRE_INSTALL)
    device.pump()
    device.answers.clear()
    device.settle()
    assert device.running == V1.digest


@pytest.mark.parametrize("stage", [*EARLY, Stage.SWITCHING, Stage.HEALTH])
def test_no_stage_lasts_for_ever(device: Device, stage: Stage) -> None:
    give(device, V2, 2).settle(until=stage)
    device.pending.clear()  # whoever should answer never does
    device.clock.now_s += 15 * 24 * 3600
    device.manager.tick(device.clock.now_s)
    device.settle()
    assert device.phases(2)[-1] == ("failed" if stage in EARLY else "rolled_back")
    assert f"stage {stage.value} lasted" in device.reason(2)
    assert device.running == V1.digest


def test_a_trial_without_frames_is_given_up_at_its_deadline(device: Device) -> None:
    give(device, V2, 2).settle(until=Stage.TRIAL)
    device.running = ""  # the camera was unplugged
    device.settle()
    assert device.phases(2)[-1] == "rolled_back"
    assert "only 0 frames in 60 s, at least 20" in device.reason(2)


def test_a_late_answer_of_a_superseded_order_changes_nothing(device: Device) -> None:
    give(device, V2, 2).settle(until=Stage.STAGING)
    late = device.pending.popleft()
    give(device, WRONG, 3).settle(until=Stage.SELF_TEST)
    device.pending.append(late)
    device.settle()
    assert (device.phases(3)[-1], device.running) == ("failed", V1.digest)


def test_offline_or_never_ordered_an_agent_just_runs(start: Start) -> None:
    device = start()
    for _ in range(3):
        device.pump()
        device.second()
    assert (device.running, device.manager.status()["stage"]) == ("", "idle")


def test_the_slot_is_read_through_before_the_switch_and_never_by_the_loop(device: Device) -> None:
    give(device, V2, 2).settle(until=Stage.SWITCHING)
    damaged = device.slots.directory("B") / f"{HARDWARE}.onnx"
    whole = damaged.read_bytes()
    damaged.write_bytes(whole[::-1])
    device.manager.tick(device.clock.now_s)
    assert device.slots.pointer.trial == "", "it waits for the worker"
    device.settle()
    assert device.phases(2)[-1] == "failed"
    assert "digest differs" in device.reason(2)
    assert V2.digest not in device.has_run


def test_an_order_that_comes_while_the_slot_is_read_through_is_not_overtaken(
    device: Device,
) -> None:
    give(device, V2, 2).settle(until=Stage.SWITCHING)
    give(device, V3, 3).settle()
    assert V2.digest not in device.has_run
    assert (device.running, device.slots.pointer.trial) == (V3.digest, "")
