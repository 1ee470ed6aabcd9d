"""Restarts in every stage, and disks that are full, slow to obey or damaged."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any, NoReturn

import pytest

from edge_agent.update.order import Order
from edge_agent.update.recovery import TRIAL_BOOTS_MAX
from edge_agent.update.state import UNCLEAN_MAX, Stage
from tests.update.bundles import SPEC
from tests.update.device import Device, Died
from tests.update.fleet import (
    DIES,
    EARLY,
    LATE,
    SLOW,
    V1,
    V2,
    V3,
    Start,
    facts,
    give,
)


@pytest.mark.parametrize("stage", [*EARLY, *LATE, Stage.COMMITTING, Stage.ROLLING_BACK])
@pytest.mark.parametrize("boot", ["clean", "crash", "power"])
def test_a_restart_in_any_stage_goes_on_where_it_was(
    device: Device, start: Start, stage: Stage, boot: str
) -> None:
    if stage is Stage.COMMITTING:
        device.slots.commit = _disk_refuses  # type: ignore[method-assign]
    bad = stage is Stage.ROLLING_BACK
    give(device, SLOW if bad else V2, 2).settle(until=stage)
    device.off()
    again = start(boot).settle()
    assert again.running == (V1.digest if bad else V2.digest)
    assert again.phases(2)[-1] == ("rolled_back" if bad else "committed")
    assert again.slots.pointer.active_digest == again.running


def _disk_refuses(digest: str, latency: object = None) -> None:
    raise OSError(28, "No space left on device")


def test_a_version_that_ends_the_agent_is_left_after_its_restarts(
    device: Device, start: Start
) -> None:
    give(device, DIES, 2)
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
    give(device, V2, 2).settle(until=Stage.TRIAL)
    for cuts in range(1, TRIAL_BOOTS_MAX + 1):
        device.off()
        device = start("power").settle(until=Stage.TRIAL)
        assert device.slots.pointer.trial_boots == cuts
    device.off()
    device = start("power").settle()
    assert (device.running, device.phases(2)[-1]) == (V1.digest, "rolled_back")
    assert "11 unannounced starts during the trial" in device.reason(2)


def test_clean_restarts_of_a_trial_are_not_held_against_it(device: Device, start: Start) -> None:
    give(device, V2, 2).settle(until=Stage.TRIAL)
    for _ in range(TRIAL_BOOTS_MAX + 2):
        device.off()
        device = start("clean").settle(until=Stage.TRIAL)
    device.settle()
    assert device.running == V2.digest


def test_a_self_test_that_keeps_ending_the_agent_is_given_up(device: Device, start: Start) -> None:
    give(device, V2, 2)
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
    give(device, V2, 2)
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
    give(device, V2, 2).settle(until=stage)
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


def test_a_bad_version_answers_no_more_although_a_full_disk_keeps_its_end_from_being_written(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(device, SLOW, 2).settle(until=Stage.TRIAL)

    def full(fd: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.update.journal.os.write", full)
        for _ in range(60):
            device.pump()
            device.second()
        assert (device.running, device.manager.state.stage) == (V1.digest, Stage.TRIAL)
        assert device.has_run[-2:] == [SLOW.digest, V1.digest], "switched once"
        assert "No space left" in str(device.manager.status()["blocked"])
    device.settle()
    assert (device.running, device.phases(2)[-1]) == (V1.digest, "rolled_back")


def test_an_agent_whose_journal_cannot_be_read_runs_the_active_version_and_says_so(
    device: Device, start: Start
) -> None:
    give(device, V2, 2).settle(until=Stage.TRIAL)
    device.off()
    journal = device.state_dir / "update" / "journal"
    kept = journal.rename(journal.with_name("kept"))
    journal.mkdir()  # what reading it finds is an error, as with a bad block
    again = start("power")
    give(again, V3, 3)
    for _ in range(5):
        again.pump()
        again.second()
    assert again.running == V1.digest
    assert "journal cannot be used" in str(again.manager.status()["blocked"])
    assert any("journal cannot be used" in text for text in again.alarms)
    again.off()
    journal.rmdir()
    kept.rename(journal)
    assert start("clean").settle().running == V2.digest, "where it left off"


def test_a_disk_that_flushes_nothing_at_a_restart_does_not_keep_the_active_version_from_running(
    device: Device, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(device, V2, 2).settle(until=Stage.FETCHING)
    device.off()

    def refuses(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.update.journal.os.fsync", refuses)
        again = start("power")
        again.pump()
        assert (again.running, again.manager.state.stage) == (V1.digest, Stage.FETCHING)
        assert "Input/output" in str(again.manager.status()["blocked"])
    assert again.settle().running == V2.digest


def test_a_disk_that_refuses_the_return_still_lets_the_old_version_run(
    device: Device, monkeypatch: pytest.MonkeyPatch
) -> None:
    give(device, SLOW, 2).settle(until=Stage.TRIAL)
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
    give(device, V2, 2).settle()
    device.off()
    (device.state_dir / "slots" / "B" / "files" / "sim-board.onnx").write_bytes(b"rot")
    again = start("power").settle()
    assert again.running == V1.digest
    assert any("is damaged; fell back to slot A" in text for text in again.alarms)
    assert facts(again, V1.digest)[-1] == ("active", "A")
    give(again, V2, 2).settle()
    assert again.running == V1.digest, "the same order is not begun again"
    give(again, V2, 3).settle()
    assert again.running == V2.digest


def test_a_lost_pointer_is_found_again_by_the_journal(device: Device, start: Start) -> None:
    give(device, V2, 2).settle()
    give(device, SLOW, 3).settle(until=Stage.TRIAL)
    device.off()
    (device.state_dir / "boot.json").write_bytes(b"\0" * 100)
    again = start("power").settle()
    assert (again.running, again.slots.pointer.active) == (V2.digest, "B")
    assert again.phases(3)[-1] == "rolled_back"


def test_a_trial_that_the_journal_knows_nothing_of_is_taken_back(
    device: Device, start: Start
) -> None:
    give(device, SLOW, 2).settle(until=Stage.TRIAL)
    device.off()
    (device.state_dir / "update" / "journal").unlink()
    again = start("power").settle()
    assert (again.running, again.slots.trial()) == (V1.digest, None)
    assert any("the journal knows nothing of" in text for text in again.alarms)


def test_an_order_that_comes_while_such_a_trial_is_taken_back_begins_after_it(
    device: Device, start: Start
) -> None:
    give(device, SLOW, 2).settle(until=Stage.TRIAL)
    device.off()
    (device.state_dir / "update" / "journal").unlink()
    again = start("power")
    assert again.manager.state.stage is Stage.ROLLING_BACK
    give(again, V3, 3).settle()
    assert again.running == V3.digest
    assert again.phases(3)[-1] == "committed"


def test_a_device_that_lost_its_only_version_takes_its_order_up_again(
    tmp_path: Path, start: Start
) -> None:
    device = give(start(), V1, 1).settle()
    device.off()
    (tmp_path / "slots" / "A" / "files" / "sim-board.onnx").write_bytes(b"rot")
    again = start("power").settle()
    assert again.running == ""
    # As on every reconnect, the very same order comes again.
    give(again, V1, 1).settle()
    assert again.running == V1.digest
    assert again.phases(1)[-1] == "committed"
    before = len(again.fetched)
    give(again, V1, 1).settle()
    assert len(again.fetched) == before, "it counts once only"


def test_a_damaged_fallback_is_given_up_and_mended_by_the_next_order_for_it(
    device: Device, start: Start
) -> None:
    give(device, V2, 2).settle()
    device.off()
    (device.state_dir / "slots" / "A" / "files" / "sim-board.onnx").write_bytes(b"rot")
    again = start("power").settle()
    assert again.running == V2.digest
    assert again.slots.fallback() is None
    assert any("the fallback in slot A is damaged" in text for text in again.alarms)
    give(again, V1, 3).settle()
    assert again.running == V1.digest
    assert again.fetched, "what was damaged was fetched anew"


@pytest.mark.parametrize("stage", [*EARLY, *LATE])
def test_a_restart_in_a_first_install_goes_on_where_it_was(start: Start, stage: Stage) -> None:
    device = give(start(), V1, 1).settle(until=stage)
    device.off()
    again = start("clean")
    assert again.settle().running == V1.digest
    assert again.phases(1)[-1] == "committed"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_while_a_slot_is_filled_is_waited_for(
    device: Device, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    stage = device.manager.slots.stage
    tries: list[Order] = []

    def full(order: Order, *rest: Any) -> NoReturn:
        tries.append(order)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(device.manager.slots, "stage", full)
    give(device, V2, 2)
    for _ in range(90):
        device.pump()
        device.second()
    assert device.manager.state.stage is Stage.PRE_INSTALL
    assert os.strerror(code) in device.manager.waits_for
    assert 1 < len(tries) < 5, "asked again after a while, and not in a loop"
    for _ in range(1800):
        device.pump()
        device.second()
    assert 3 < len(tries) < 8, "seldomer and seldomer: each try may write a whole model"
    assert "failed" not in device.phases(2)
    assert device.running == V1.digest
    monkeypatch.setattr(device.manager.slots, "stage", stage)
    for _ in range(1920):
        device.pump()
        device.second()
    device.settle()
    assert (device.running, device.phases(2)[-1]) == (V2.digest, "committed")
