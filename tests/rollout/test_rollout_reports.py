"""Reports may be repeated, reordered, late, lost or foreign; devices go back to their own past."""

from __future__ import annotations

import typing

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rollout_bench import NEW, OLD, OTHER, Drive, candidates, plan_of

from edge_contract import messages
from fleet.errors import FleetError
from fleet.rollout import (
    Candidate,
    Gate,
    decode_state,
    encode_state,
    make_plan,
    new_rollout,
    step,
)
from fleet.rollout.events import (
    Abort,
    DeviceFacts,
    DeviceReport,
    Event,
    Finished,
    Pause,
    Promote,
    Restored,
    Resume,
    Rollback,
    Signed,
    Start,
    Tick,
)
from fleet.rollout.state import REPORTABLE, Phase, Status

_REPORTED = st.sampled_from(sorted(REPORTABLE))


def rollback(drive: Drive) -> None:
    drive.feed(Rollback(now_s=drive.now_s, who="ann"))


def test_a_device_may_report_exactly_the_phases_of_the_message_contract():
    assert {phase.value for phase in REPORTABLE} == set(typing.get_args(messages.Phase))
    with pytest.raises(FleetError, match="expected a phase out of"):
        DeviceReport(now_s=0, device="d0", phase=Phase.EXCLUDED, digest=NEW, number=(1, 1))


@given(phases=st.lists(_REPORTED, min_size=1, max_size=6), data=st.data())
def test_the_order_and_number_of_reports_do_not_matter(phases, data):
    shuffled = data.draw(st.permutations(phases + data.draw(st.lists(st.sampled_from(phases)))))
    outcomes = []
    for order in (phases, shuffled):
        drive = Drive(plan_of(20, waves=(10,), max_failures_share=1.0))
        device = drive.wave(1)[0]
        for phase in order:
            drive.report(device, phase, "why")
        outcomes.append(drive.state.devices[device])
    first, second = outcomes
    assert first == second


@given(phase=_REPORTED, digest=st.sampled_from([NEW, OLD, OTHER]), seq=st.integers(0, 4))
def test_the_same_report_twice_is_the_same_as_once(phase, digest, seq):
    drive = Drive(plan_of(4, waves=(2,), max_failures_count=1))
    device = drive.wave(1)[0]
    drive.report(device, phase, "why", digest=digest, seq=seq)
    once = drive.state
    assert drive.report(device, phase, "why", digest=digest, seq=seq) == []
    assert drive.state == once


def test_a_late_failure_of_an_earlier_attempt_at_the_same_digest_counts_for_nothing():
    drive = Drive(plan_of(3))
    (canary,) = drive.wave(1)
    drive.report(canary, Phase.FAILED, "from last week", seq=1)
    assert drive.phase(canary) is Phase.ASKED
    assert drive.state.status is Status.RUNNING


def test_reports_about_another_digest_count_for_nothing():
    drive = Drive(plan_of(3))
    (canary,) = drive.wave(1)
    for phase in sorted(REPORTABLE):
        drive.report(canary, phase, digest=OTHER)
    assert drive.phase(canary) is Phase.ASKED
    assert drive.asked == [canary]


@pytest.mark.parametrize("committed", [False, True])
def test_a_device_that_has_gone_on_since_and_refuses_its_old_order_has_not_failed(committed):
    drive = Drive(plan_of(3, on_abort="return"))
    (canary,) = drive.wave(1)
    if committed:
        drive.commit(canary)
    before, seq = drive.phase(canary), drive.signed[canary]
    drive.facts(canary, OTHER, seq=seq + 2)
    assert drive.report(canary, Phase.REFUSED, "replay", seq=seq) == []
    assert drive.phase(canary) is before
    assert drive.state.status is Status.RUNNING
    drive.report(canary, Phase.REFUSED, "hardware differs", seq=seq + 2)
    assert drive.state.status is Status.ABORTED, "what it was told last is another matter"


def test_reports_of_devices_outside_the_plan_count_for_nothing():
    drive = Drive(plan_of(3))
    before = drive.state
    assert drive.report("stranger", Phase.FAILED, seq=9) == []
    assert drive.facts("stranger", NEW, seq=9) == []
    drive.online("stranger")
    assert drive.state == before


def test_a_device_that_is_done_without_being_asked_breaks_no_count_and_is_asked_in_its_turn():
    drive = Drive(plan_of(3))
    early = drive.wave(2)[0]
    drive.commit(early)
    assert drive.phase(early) is Phase.PENDING
    assert drive.asked == list(drive.wave(1))
    drive.commit(*drive.wave(1))
    assert early in drive.asked
    drive.commit(*drive.wave(2))
    assert drive.state.sentence == "Completed: 3 of 3 devices run 2.0.0"


def test_a_lost_commit_report_is_made_up_for_by_the_retained_state():
    drive = Drive(plan_of(3))
    (canary,) = drive.wave(1)
    drive.facts(canary, OLD)
    assert drive.phase(canary) is Phase.ASKED
    drive.facts(canary, NEW)
    assert drive.phase(canary) is Phase.COMMITTED
    drive.facts(canary, OLD)
    assert drive.state.devices[canary].digest == NEW, "older than the commit"
    assert len(drive.asked) == 3


def test_retained_state_from_before_the_question_is_no_answer():
    drive = Drive(plan_of(3), start=False)
    (canary,) = drive.wave(1)
    drive.state, _ = step(drive.state, Start(now_s=drive.now_s, who="ann"))
    drive.facts(canary, NEW, seq=1)
    assert drive.phase(canary) is Phase.ASKED, "nothing has been signed for it yet"
    drive.feed(Signed(now_s=drive.now_s, device=canary, number=(1, 2)))
    drive.facts(canary, NEW, seq=1)
    assert drive.phase(canary) is Phase.ASKED


def test_rollback_returns_each_device_to_what_it_ran_before():
    fleet = [
        *candidates(2),
        Candidate("d2", "pi4", "digits", digest=OTHER, desired_epoch=1, desired_seq=7),
    ]
    drive = Drive(make_plan("r1", "digits", "2.0.0", NEW, fleet, hardware=["pi4"], counts=(3,)))
    drive.commit("d0", "d1", "d2")
    rollback(drive)
    assert sorted(drive.returned) == [("d0", OLD), ("d1", OLD), ("d2", OTHER)]
    assert drive.state.status is Status.ROLLING_BACK
    drive.report("d0", Phase.COMMITTED, digest=OLD)
    drive.facts("d1", OLD)
    drive.report("d2", Phase.COMMITTED, digest=OLD)
    assert drive.phase("d2") is Phase.RETURNING, "that is not what it ran before"
    drive.report("d2", Phase.COMMITTED, digest=OTHER)
    assert drive.finished[-1] == Finished("rolled_back", "Rolled back: 3 of 3 devices returned")


def test_rollback_returns_what_it_ran_last_before_it_was_asked_and_not_when_planned():
    drive = Drive(plan_of(2))
    (second,) = drive.wave(2)
    drive.facts(second, OTHER, seq=3)
    drive.commit(*drive.wave(1))
    drive.signed[second] = 4
    drive.commit(second)
    rollback(drive)
    assert dict(drive.returned)[second] == OTHER


def test_rollback_in_mid_wave_asks_nobody_and_leaves_the_unasked_alone():
    drive = Drive(plan_of(6, waves=(3,)))
    a, b, c = drive.wave(1)
    drive.commit(a)
    drive.report(b, Phase.TRIAL)
    rollback(drive)
    assert sorted(device for device, _ in drive.returned) == sorted([a, b, c])
    for device in (a, b, c):
        drive.report(device, Phase.COMMITTED, seq=2)
        assert drive.phase(device) is Phase.RETURNING, "that was the old question's answer"
        drive.facts(device, OLD)
    assert drive.state.status is Status.ROLLED_BACK
    assert len(drive.asked) == 3


def test_a_device_that_is_gone_does_not_keep_a_rollback_open_for_ever():
    drive = Drive(plan_of(2, waves=(2,), wave_deadline_s=600))
    a, b = drive.wave(1)
    drive.commit(a, b)
    drive.offline(b)
    rollback(drive)
    drive.facts(a, OLD)
    drive.wait(600)
    assert drive.state.status is Status.ROLLED_BACK
    assert drive.state.sentence == (
        "Rolled back: 1 of 2 devices returned; "
        "1 not heard from, and told to return when they come back"
    )
    drive.facts(b, OLD)
    assert drive.state.sentence == "Rolled back: 2 of 2 devices returned"


def test_a_rollback_stands_after_a_restored_backup_until_a_person_resumes_it():
    drive = Drive(plan_of(2, waves=(2,), wave_deadline_s=600))
    a, b = drive.wave(1)
    drive.commit(a, b)
    rollback(drive)
    drive.feed(Restored(now_s=drive.now_s, who="ann"))
    assert drive.state.status is Status.RETURN_PAUSED
    assert drive.state.sentence == (
        "Paused by ann: a backup was restored, and devices may have gone on since"
    )
    drive.wait(3600)
    drive.facts(a, OLD)
    assert drive.state.status is Status.RETURN_PAUSED, "neither the deadline nor devices end it"
    for event in (Pause(now_s=0, who="ann"), Promote(now_s=0, who="ann"), Start(now_s=0, who="a")):
        with pytest.raises(FleetError, match="expected abort or exclude or resume"):
            drive.feed(event)
    drive.feed(Resume(now_s=drive.now_s, who="ann"))
    assert drive.state.status is Status.ROLLING_BACK
    drive.wait(599)
    assert drive.state.status is Status.ROLLING_BACK, "its deadline began anew"
    drive.facts(b, OLD)
    assert drive.state.sentence == "Rolled back: 2 of 2 devices returned"


def test_a_rollback_that_a_backup_brought_can_be_given_up():
    drive = Drive(plan_of(2, waves=(2,)))
    drive.commit(*drive.wave(1))
    rollback(drive)
    drive.feed(Restored(now_s=drive.now_s, who="ann"))
    drive.feed(Abort(now_s=drive.now_s, who="ann", reason="long past"))
    assert drive.state.status is Status.ABORTED
    assert drive.withdrawn == []


def test_numbers_begin_again_in_a_new_epoch():
    fleet = [Candidate("d0", "pi4", "digits", digest=OLD, desired_epoch=1, desired_seq=40)]
    state = new_rollout(make_plan("r1", "digits", "2.0.0", NEW, fleet, hardware=["pi4"]))

    def feed(event: Event) -> None:
        nonlocal state
        state, _ = step(state, event)

    def report(phase: Phase, epoch: int, seq: int) -> DeviceReport:
        number = (epoch, seq)
        return DeviceReport(now_s=2, device="d0", phase=phase, digest=NEW, number=number)

    feed(Start(now_s=1, who="ann"))
    feed(DeviceFacts(now_s=1, device="d0", digest=OLD, number=(1, 99)))
    feed(Signed(now_s=1, device="d0", number=(2, 1)))
    feed(report(Phase.FAILED, 1, 99))
    assert state.devices["d0"].phase is Phase.ASKED, "the epoch before is over"
    feed(report(Phase.TRIAL, 2, 1))
    feed(DeviceFacts(now_s=2, device="d0", digest=NEW, number=(2, 1)))
    assert state.status is Status.COMPLETED


def test_a_device_that_fails_to_return_is_said_so_and_may_be_sent_again():
    drive = Drive(plan_of(1))
    drive.commit("d0")
    rollback(drive)
    drive.report("d0", Phase.FAILED, "slot lost", digest=OLD)
    assert drive.phase("d0") is Phase.RETURN_FAILED
    assert "1 failed to return" in drive.state.sentence
    rollback(drive)
    drive.facts("d0", OLD)
    assert drive.phase("d0") is Phase.RETURNED


def test_a_first_install_has_nothing_to_return_to_and_the_verdict_says_so():
    fleet = [Candidate("d0", "pi4", "digits"), Candidate("d1", "pi4", "digits")]
    drive = Drive(make_plan("r1", "digits", "2.0.0", NEW, fleet, hardware=["pi4"], counts=(2,)))
    drive.commit("d0")
    rollback(drive)
    assert drive.returned == []
    assert drive.withdrawn == [("d1", "")]
    assert "1 had nothing to return to and keep 2.0.0" in drive.state.sentence


def test_an_abort_by_the_gate_halts_and_leaves_committed_devices_by_default():
    drive = Drive(plan_of(6, waves=(4,), max_failures_count=0))
    a, b, c, d = drive.wave(1)
    drive.commit(a)
    drive.report(b, Phase.FAILED, "x")
    assert drive.returned == []
    assert dict(drive.withdrawn) == {b: OLD, c: OLD, d: OLD}, "no desired names it any more"
    rollback(drive)
    assert drive.returned == [(a, OLD)]


def test_a_device_that_leaves_an_aborted_version_by_itself_is_not_sent_there_again():
    drive = Drive(plan_of(3))
    (canary,) = drive.wave(1)
    drive.feed(Pause(now_s=drive.now_s, who="ann"))
    drive.commit(canary)
    drive.feed(Abort(now_s=drive.now_s, who="ann", reason=""))
    assert drive.withdrawn == []
    drive.report(canary, Phase.ROLLED_BACK, "crashes at noon")
    assert drive.withdrawn == [(canary, OLD)]


def test_an_abort_by_the_gate_returns_committed_devices_where_the_plan_says_so():
    drive = Drive(plan_of(6, waves=(4,), on_abort="return"))
    a, b, *_ = drive.wave(1)
    drive.commit(a)
    drive.report(b, Phase.FAILED, "x")
    assert drive.returned == [(a, OLD)]
    assert drive.state.status is Status.ABORTED
    drive.facts(a, OLD)
    assert drive.phase(a) is Phase.RETURNED


def test_a_commit_that_crossed_its_withdrawal_is_remembered_for_a_rollback():
    drive = Drive(plan_of(2, waves=(2,)))
    a, _ = drive.wave(1)
    drive.state, _ = step(drive.state, Abort(now_s=drive.now_s, who="ann", reason=""))
    drive.commit(a)
    assert drive.phase(a) is Phase.WITHDRAWN
    rollback(drive)
    assert drive.returned == [(a, OLD)]


def test_a_state_goes_through_json_and_back_unchanged():
    drive = Drive(plan_of(6, waves=(2, 2), max_failures_share=0.5, soak_s=1.5))
    a, b = drive.wave(1)
    drive.commit(a)
    drive.report(b, Phase.FAILED, "ü\n\0")
    again = decode_state(encode_state(drive.state))
    assert again == drive.state
    assert step(again, Tick(now_s=9e9)) == step(drive.state, Tick(now_s=9e9))


def test_a_stored_state_with_a_malformed_gate_is_refused():
    data = encode_state(Drive(plan_of(2, max_failures_count=1)).state)
    assert b'"max_failures_count":1' in data
    with pytest.raises(msgspec.ValidationError):
        decode_state(data.replace(b'"max_failures_count":1', b'"max_failures_count":"off"'))
    with pytest.raises(FleetError):
        decode_state(data.replace(b'"max_failures_count":1', b'"max_failures_count":-1'))


def test_events_go_through_json_for_the_audit_log():
    event = DeviceReport(now_s=1.5, device="d0", phase=Phase.TRIAL, digest=NEW, number=(1, 2))
    assert msgspec.json.decode(msgspec.json.encode(event), type=Event) == event


def test_a_step_leaves_the_state_that_it_was_given_as_it_was():
    drive = Drive(plan_of(3))
    before = drive.state
    frozen = encode_state(before)
    drive.commit(*drive.wave(1))
    assert encode_state(before) == frozen


def test_a_clock_that_goes_back_shortens_no_deadline():
    drive = Drive(plan_of(2, wave_deadline_s=600))
    drive.wait(500)
    drive.now_s -= 400
    drive.commit(*drive.wave(1))
    drive.wait(400 + 599)
    assert drive.state.status is Status.RUNNING
    drive.wait(1)
    assert drive.state.outcome == "insufficient"


def test_the_gate_of_a_plan_is_the_strictest_when_nothing_is_said():
    plan = make_plan("r1", "digits", "2", NEW, candidates(9), hardware=["pi4"])
    assert plan.gate == Gate()
    assert plan.gate.limit(9) == 0
