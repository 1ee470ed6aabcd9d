"""Whole updates on a simulated device: what runs, what the fleet is told, what the journal says."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edge_agent.update.effects import Hook
from edge_agent.update.events import Ordered
from edge_agent.update.journal import read_journal
from edge_agent.update.slots import TRIAL_BOOTS_MAX
from edge_agent.update.state import UNCLEAN_MAX, Stage
from edge_contract.digest import digest_of
from tests.update.bundles import SPEC, Version, make_version
from tests.update.device import Clock, Device, Died

V1, V2, V3 = make_version("1.0.0"), make_version("2.0.0"), make_version("3.0.0")
WRONG = make_version("2.1.0", "wrong")
SLOW = make_version("2.2.0", "slow")
DIES = make_version("2.3.0", "dies")
UNLOADABLE = make_version("2.4.0", "unloadable")
FLEET = {v.digest: v for v in (V1, V2, V3, WRONG, SLOW, DIES, UNLOADABLE)}

Start = Callable[..., Device]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    clock = Clock()

    def make(boot: str = "clean", answers: dict[Hook, str] | None = None) -> Device:
        return Device(tmp_path, FLEET, clock, answers).boot(boot)  # type: ignore[arg-type]

    return make


@pytest.fixture
def device(start: Start) -> Device:
    """Version 1 is active in slot A, with some seconds of frames behind it."""
    device = start()
    _give(device, V1, 1).settle()
    for _ in range(5):
        device.second()
    return device


def _give(device: Device, version: Version, seq: int, *, deadline_ts: float = 0.0) -> Device:
    device.manager.handle(Ordered(version.order(seq, deadline_ts=deadline_ts)))
    return device


def _facts(device: Device, digest: str) -> list[tuple[str, str]]:
    entries = read_journal(device.state_dir / "update" / "journal")
    return [(f.what, f.slot) for e in entries for f in e.facts if f.digest == digest]


def test_first_install_needs_no_version_before(start: Start) -> None:
    device = _give(start(), V1, 1).settle()
    assert device.running == V1.digest
    assert device.phases(1) == [
        "accepted", "downloading", "staged", "self_test", "trial", "committed",
    ]  # fmt: skip
    assert _facts(device, V1.digest) == [("entered", "A"), ("trial", "A"), ("active", "A")]
    assert device.manager.status()["active"] == {
        "slot": "A", "digest": V1.digest, "line": "digits", "version": "1.0.0",
    }  # fmt: skip


def test_versions_alternate_between_the_slots_and_the_old_one_stays_as_fallback(
    device: Device,
) -> None:
    _give(device, V2, 2).settle()
    assert (device.slots.pointer.active, device.slots.pointer.fallback) == ("B", "A")
    fetched = len(device.fetched)
    _give(device, V3, 3).settle()
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
    _give(device, WRONG, 2).settle()
    assert device.phases(2)[-1] == "failed"
    assert "golden vectors differ" in device.reason(2)
    assert device.running == V1.digest
    assert WRONG.digest not in device.has_run
    assert _facts(device, WRONG.digest) == [("entered", "B")]
    assert not (device.state_dir / "slots" / "B").exists(), "the refused version is collected"


def test_a_slow_version_breaks_its_health_spec_in_trial_and_the_device_returns(
    device: Device,
) -> None:
    _give(device, SLOW, 2).settle()
    assert device.phases(2)[-2:] == ["trial", "rolled_back"]
    assert "limit 30.00 ms (3 times the 10.00 ms of the version before)" in device.reason(2)
    assert device.running == V1.digest
    assert _facts(device, SLOW.digest) == [("entered", "B"), ("trial", "B"), ("left", "B")]
    assert device.slots.pointer.active_digest == V1.digest


def test_a_version_that_cannot_be_loaded_fails_without_ever_running(device: Device) -> None:
    _give(device, UNLOADABLE, 2).settle()
    assert (device.phases(2)[-1], device.running) == ("failed", V1.digest)
    assert "refuses the model" in device.reason(2)
    assert device.slots.trial() is None


def test_an_ended_order_is_not_begun_again_by_itself_but_a_new_one_is(
    device: Device, start: Start
) -> None:
    _give(device, SLOW, 2).settle()
    told = len(device.reports)
    _give(device, SLOW, 2).settle()
    assert len(device.reports) == told
    device.off()
    again = _give(start(), SLOW, 2).settle()
    assert again.phases(2) == ["rolled_back"], "told again once, and not begun again"
    _give(again, SLOW, 3).settle()
    assert again.phases(3)[-1] == "rolled_back"


def test_an_order_for_the_active_version_is_committed_at_once(device: Device) -> None:
    fetched = len(device.fetched)
    _give(device, V1, 2).settle()
    assert device.phases(2) == ["committed"]
    assert len(device.fetched) == fetched
    assert _facts(device, V1.digest).count(("entered", "A")) == 1


def test_an_older_order_is_not_taken_up(device: Device) -> None:
    _give(device, V2, 5).settle()
    _give(device, V3, 4).settle()
    assert (device.running, device.phases(4)) == (V2.digest, [])


def test_going_back_to_the_fallback_copies_and_fetches_nothing(device: Device) -> None:
    _give(device, V2, 2).settle()
    fetched = len(device.fetched)
    inode = (device.state_dir / "slots" / "A").stat().st_ino
    _give(device, V1, 3).settle()
    assert (device.running, device.slots.pointer.active) == (V1.digest, "A")
    assert (device.state_dir / "slots" / "A").stat().st_ino == inode
    assert len(device.fetched) == fetched


EARLY = [
    Stage.FETCHING, Stage.PRE_INSTALL, Stage.STAGING, Stage.SELF_TEST, Stage.POST_INSTALL,
]  # fmt: skip
LATE = [Stage.SWITCHING, Stage.TRIAL, Stage.HEALTH]


@pytest.mark.parametrize("stage", EARLY + LATE)
def test_a_newer_order_wins_in_every_stage(device: Device, stage: Stage) -> None:
    _give(device, V2, 2).settle(until=stage)
    _give(device, V3, 3).settle()
    assert device.running == V3.digest
    assert device.phases(2)[-1] == ("failed" if stage in EARLY else "rolled_back")
    assert "superseded by order 1.3 (digits 3.0.0)" in device.reason(2)
    assert device.phases(3)[-1] == "committed"


@pytest.mark.parametrize("stage", EARLY + LATE)
def test_a_newer_order_for_the_version_under_way_takes_its_place(
    device: Device, stage: Stage
) -> None:
    _give(device, V2, 2).settle(until=stage)
    _give(device, V2, 3).settle()
    assert device.running == V2.digest
    assert (device.phases(3)[0], device.phases(3)[-1]) == ("accepted", "committed")
    assert _facts(device, V2.digest) == [("entered", "B"), ("trial", "B"), ("active", "B")]


def test_a_newer_order_during_the_return_begins_after_it(device: Device) -> None:
    _give(device, SLOW, 2).settle(until=Stage.ROLLING_BACK)
    _give(device, V2, 3)
    _give(device, V3, 4).settle()
    assert device.phases(2)[-1] == "rolled_back"
    assert device.phases(3) == ["failed"]
    assert device.running == V3.digest


def test_a_hold_stops_what_was_not_switched_in_and_a_release_goes_on(
    device: Device, start: Start
) -> None:
    _give(device, V2, 2).settle(until=Stage.STAGING)
    device.manager.hold()
    device.settle()
    assert device.phases(2)[-1] == "held"
    device.off()
    again = start().settle()
    assert (again.running, again.manager.status()["held"]) == (V1.digest, True)
    _give(again, V3, 3).settle()
    assert (again.phases(2)[-1], again.phases(3)) == ("failed", ["held"])
    again.manager.release()
    again.settle()
    assert again.running == V3.digest


def test_a_hold_during_a_trial_lets_it_end(device: Device) -> None:
    _give(device, V2, 2).settle(until=Stage.TRIAL)
    device.manager.hold()
    device.settle()
    assert device.phases(2)[-1] == "committed"
    _give(device, V3, 3).settle()
    assert (device.phases(3), device.running) == (["held"], V2.digest)


@pytest.mark.parametrize(
    ("hook", "phase"),
    [("pre-install", "refused"), ("post-install", "failed"), ("health", "rolled_back")],
)
def test_a_hook_may_refuse(start: Start, hook: Hook, phase: str) -> None:
    device = start(answers={})
    _give(device, V1, 1).settle()
    device.answers[hook] = "refuse"
    _give(device, V2, 2).settle()
    assert (device.phases(2)[-1], device.running) == (phase, V1.digest)
    assert device.reason(2) == f"hook {hook} says refuse"


def test_a_hook_that_says_later_is_asked_again_until_the_deadline(start: Start) -> None:
    device = start(answers={"pre-install": "later"})
    began_s = device.clock.now_s
    _give(device, V1, 1, deadline_ts=device.clock.wall_s() + 200)
    device.settle()
    assert device.phases(1)[-1] == "failed"
    assert "deadline passed" in device.reason(1)
    assert 2 <= len(device.hook_facts) <= 4, "asked about once a minute"
    assert device.clock.now_s - began_s < 210
    _give(device, V1, 2).settle(until=Stage.PRE_INSTALL)
    device.pump()
    device.answers.clear()
    device.settle()
    assert device.running == V1.digest


@pytest.mark.parametrize("stage", [*EARLY, Stage.SWITCHING, Stage.HEALTH])
def test_no_stage_lasts_for_ever(device: Device, stage: Stage) -> None:
    _give(device, V2, 2).settle(until=stage)
    device.pending.clear()  # whoever should answer never does
    device.clock.now_s += 15 * 24 * 3600
    device.manager.tick(device.clock.now_s)
    device.settle()
    assert device.phases(2)[-1] == ("failed" if stage in EARLY else "rolled_back")
    assert f"stage {stage.value} lasted" in device.reason(2)
    assert device.running == V1.digest


def test_a_trial_without_frames_is_given_up_at_its_deadline(device: Device) -> None:
    _give(device, V2, 2).settle(until=Stage.TRIAL)
    device.running = ""  # the camera was unplugged
    device.settle()
    assert device.phases(2)[-1] == "rolled_back"
    assert "only 0 frames in 60 s, at least 20" in device.reason(2)


def test_a_late_answer_of_a_superseded_order_changes_nothing(device: Device) -> None:
    _give(device, V2, 2).settle(until=Stage.STAGING)
    late = device.pending.popleft()
    _give(device, WRONG, 3).settle(until=Stage.SELF_TEST)
    device.pending.append(late)
    device.settle()
    assert (device.phases(3)[-1], device.running) == ("failed", V1.digest)


@pytest.mark.parametrize("stage", [*EARLY, *LATE, Stage.COMMITTING, Stage.ROLLING_BACK])
@pytest.mark.parametrize("boot", ["clean", "crash", "power"])
def test_a_restart_in_any_stage_goes_on_where_it_was(
    device: Device, start: Start, stage: Stage, boot: str
) -> None:
    if stage is Stage.COMMITTING:
        device.slots.commit = _disk_refuses  # type: ignore[method-assign]
    bad = stage is Stage.ROLLING_BACK
    _give(device, SLOW if bad else V2, 2).settle(until=stage)
    device.off()
    again = start(boot).settle()
    assert again.running == (V1.digest if bad else V2.digest)
    assert again.phases(2)[-1] == ("rolled_back" if bad else "committed")
    assert again.slots.pointer.active_digest == again.running


def _disk_refuses(digest: str, p95_ms: float | None = None) -> None:
    raise OSError(28, "No space left on device")


def test_a_version_that_ends_the_agent_is_left_after_its_restarts(
    device: Device, start: Start
) -> None:
    _give(device, DIES, 2)
    crashes = 0
    while True:
        try:
            device.settle()
            break
        except Died:
            crashes += 1
            device.off()
            device = start("crash")
    assert crashes == SPEC.restarts_max + 1
    assert (device.running, device.phases(2)[-1]) == (V1.digest, "rolled_back")
    assert "2 unexplained restarts during the trial, limit 1" in device.reason(2)


def test_a_version_that_browns_the_board_out_is_left_by_the_boot_counter(
    device: Device, start: Start
) -> None:
    _give(device, V2, 2).settle(until=Stage.TRIAL)
    for cuts in range(1, TRIAL_BOOTS_MAX + 1):
        device.off()
        device = start("power").settle(until=Stage.TRIAL)
        assert device.slots.pointer.trial_boots == cuts
    device.off()
    device = start("power").settle()
    assert (device.running, device.phases(2)[-1]) == (V1.digest, "rolled_back")
    assert "11 unannounced starts during the trial" in device.reason(2)


def test_clean_restarts_of_a_trial_are_not_held_against_it(device: Device, start: Start) -> None:
    _give(device, V2, 2).settle(until=Stage.TRIAL)
    for _ in range(TRIAL_BOOTS_MAX + 2):
        device.off()
        device = start("clean").settle(until=Stage.TRIAL)
    device.settle()
    assert device.running == V2.digest


def test_a_self_test_that_keeps_ending_the_agent_is_given_up(device: Device, start: Start) -> None:
    _give(device, V2, 2)
    for _ in range(UNCLEAN_MAX + 1):
        device.settle(until=Stage.SELF_TEST)
        device.off()
        device = start("crash")
    device.settle()
    assert (device.running, device.phases(2)[-1]) == (V1.digest, "failed")
    assert "ended unannounced 6 times in stage self_test" in device.reason(2)


def test_a_full_disk_stops_the_update_and_nothing_else(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.fsync

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    _give(device, V2, 2)
    for _ in range(3):
        device.second()
    assert device.manager.state.stage is Stage.IDLE
    assert "No space left" in str(device.manager.status()["blocked"])
    assert device.running == V1.digest
    monkeypatch.setattr(os, "fsync", real)
    device.settle(until=Stage.TRIAL)
    monkeypatch.setattr(os, "fsync", full)
    for _ in range(30):
        device.pump()
        device.second()
    assert device.running == V2.digest
    monkeypatch.setattr(os, "fsync", real)
    device.second()
    device.settle()
    assert (device.phases(2)[-1], device.manager.status()["blocked"]) == ("committed", "")


@pytest.mark.parametrize("stage", [*EARLY, *LATE])
def test_a_full_disk_at_a_restart_does_not_keep_the_active_version_from_running(
    device: Device, start: Start, stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(device, V2, 2).settle(until=stage)
    device.off()

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("edge_agent.update.journal.os.write", full)
    again = start("power")
    for _ in range(3):
        again.pump()
        again.second()
    assert (again.running, again.manager.state.stage) == (V1.digest, stage)
    monkeypatch.undo()
    again.settle()
    assert again.running == V2.digest


def test_a_disk_that_refuses_the_return_still_lets_the_old_version_run(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    _give(device, SLOW, 2).settle(until=Stage.TRIAL)
    revert = device.slots.revert

    def refuses() -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(device.slots, "revert", refuses)
    device.settle(until=Stage.ROLLING_BACK)
    for _ in range(5):
        device.pump()
        device.second()
    assert (device.running, device.manager.state.stage) == (V1.digest, Stage.ROLLING_BACK)
    monkeypatch.setattr(device.slots, "revert", revert)
    device.settle()
    assert (device.phases(2)[-1], device.slots.trial()) == ("rolled_back", None)


def test_a_damaged_active_slot_gives_way_to_the_fallback_and_says_so(
    device: Device, start: Start
) -> None:
    _give(device, V2, 2).settle()
    device.off()
    (device.state_dir / "slots" / "B" / "files" / "sim-board.onnx").write_bytes(b"rot")
    again = start("power").settle()
    assert again.running == V1.digest
    assert any("is damaged; fell back to slot A" in text for text in again.alarms)
    assert _facts(again, V1.digest)[-1] == ("active", "A")
    _give(again, V2, 2).settle()
    assert again.running == V1.digest, "the same order is not begun again"
    _give(again, V2, 3).settle()
    assert again.running == V2.digest


def test_a_lost_pointer_is_found_again_by_the_journal(device: Device, start: Start) -> None:
    _give(device, V2, 2).settle()
    _give(device, SLOW, 3).settle(until=Stage.TRIAL)
    device.off()
    (device.state_dir / "boot.json").write_bytes(b"\0" * 100)
    again = start("power").settle()
    assert (again.running, again.slots.pointer.active) == (V2.digest, "B")
    assert again.phases(3)[-1] == "rolled_back"


def test_a_trial_that_the_journal_knows_nothing_of_is_taken_back(
    device: Device, start: Start
) -> None:
    _give(device, SLOW, 2).settle(until=Stage.TRIAL)
    device.off()
    (device.state_dir / "update" / "journal").unlink()
    again = start("power").settle()
    assert (again.running, again.slots.trial()) == (V1.digest, None)
    assert any("the journal knows nothing of" in text for text in again.alarms)


def test_offline_or_never_ordered_an_agent_just_runs(start: Start) -> None:
    device = start()
    for _ in range(3):
        device.pump()
        device.second()
    assert (device.running, device.manager.status()["stage"]) == ("", "idle")
