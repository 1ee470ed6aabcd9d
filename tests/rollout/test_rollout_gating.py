"""When the next wave is asked, when nobody is asked any more, and what the verdict says."""

from __future__ import annotations

import pytest
from rollout_bench import Drive, plan_of

from fleet.errors import FleetError
from fleet.rollout.events import (
    Abort,
    AskDevice,
    Exclude,
    Finished,
    Pause,
    Promote,
    Resume,
    Rollback,
    Start,
)
from fleet.rollout.preview import preview_dict, preview_text
from fleet.rollout.state import Phase, Status
from fleet.rollout.verdict import failure_groups, phase_counts


def failing(drive: Drive, *devices: str, reason: str = "golden vectors differ") -> None:
    for device in devices:
        drive.report(device, Phase.SELF_TEST)
        drive.report(device, Phase.FAILED, reason)


def test_a_draft_asks_nobody_until_it_is_started():
    drive = Drive(plan_of(3), start=False)
    drive.wait(10_000)
    assert drive.asked == []
    drive.feed(Start(now_s=drive.now_s, who="ann"))
    assert drive.asked == list(drive.wave(1))


def test_the_next_wave_is_asked_only_when_the_one_before_has_passed():
    drive = Drive(plan_of(7, waves=(1, 2)))
    assert drive.asked == list(drive.wave(1))
    for phase in (Phase.ACCEPTED, Phase.DOWNLOADING, Phase.STAGED, Phase.SELF_TEST, Phase.TRIAL):
        drive.report(*drive.wave(1), phase)
        assert len(drive.asked) == 1
    drive.commit(*drive.wave(1))
    assert drive.asked == [*drive.wave(1), *drive.wave(2)]
    drive.commit(*drive.wave(2), *drive.wave(3))
    assert drive.state.status is Status.COMPLETED
    assert drive.finished == [Finished("pass", "Completed: 7 of 7 devices run 2.0.0")]


def test_the_first_failure_over_the_gate_aborts_and_no_later_wave_is_ever_asked():
    drive = Drive(plan_of(3))
    failing(drive, *drive.wave(1))
    drive.wait(10_000)
    assert drive.state.status is Status.ABORTED
    assert drive.asked == list(drive.wave(1))
    assert drive.finished == [
        Finished(
            "fail",
            "Aborted: 1 of 1 devices failed its self-test: golden vectors differ (limit 0); "
            "2 devices never asked",
        )
    ]


def test_failures_within_the_limit_do_not_abort_and_one_more_does():
    drive = Drive(plan_of(20, waves=(10,), max_failures_share=0.2))
    failing(drive, *drive.wave(1)[:2])
    assert drive.state.status is Status.RUNNING
    failing(drive, drive.wave(1)[2])
    assert drive.state.status is Status.ABORTED
    assert "3 of 3 devices failed their self-test" in drive.state.sentence


def test_devices_that_are_offline_dilute_no_failure():
    """2 of 20 is within 20 %, but only 3 answered and 2 of those failed."""
    drive = Drive(plan_of(40, waves=(20,), max_failures_share=0.2, quorum_share=0.05))
    first = drive.wave(1)
    drive.commit(first[0])
    failing(drive, *first[1:3])
    assert drive.state.status is Status.RUNNING
    drive.offline(*first[3:])
    assert drive.state.status is Status.ABORTED
    assert "2 of 3 devices" in drive.state.sentence


def test_offline_devices_count_neither_as_success_nor_as_failure():
    drive = Drive(plan_of(8, waves=(4,), quorum_share=0.5))
    a, b, c, d = drive.wave(1)
    drive.offline(c, d)
    drive.commit(a)
    assert len(drive.asked) == 4, "one of four is no quorum"
    drive.commit(b)
    assert len(drive.asked) == 8, "two of four are, and nobody connected is still busy"
    assert phase_counts(drive.state) == {"committed": 2, "offline": 2, "asked": 4}


def test_a_fleet_with_a_dead_device_still_completes():
    drive = Drive(plan_of(4, waves=(1,)))
    dead = drive.wave(2)[0]
    drive.offline(dead)
    drive.commit(*drive.wave(1), *drive.wave(2)[1:])
    assert drive.state.status is Status.COMPLETED
    assert drive.state.sentence == "Completed: 3 of 4 devices run 2.0.0; 1 offline"


def test_a_late_joiner_gets_the_version_that_its_wave_was_asked_to_run():
    drive = Drive(plan_of(4, waves=(1,)))
    late = drive.wave(2)[0]
    drive.offline(late)
    drive.commit(*drive.wave(1), *drive.wave(2)[1:])
    assert late in drive.asked, "its desired waits for it"
    drive.online(late)
    drive.commit(late)
    assert drive.state.sentence == "Completed: 4 of 4 devices run 2.0.0"
    assert len(drive.finished) == 1


def test_late_failures_over_the_gate_stop_a_completed_rollout_from_reaching_more_stragglers():
    drive = Drive(plan_of(5, waves=(1,)))
    one, two, *rest = drive.wave(2)
    drive.offline(one, two)
    drive.commit(*drive.wave(1), *rest)
    assert drive.state.status is Status.COMPLETED
    failing(drive, one)
    assert drive.state.status is Status.ABORTED
    assert two in dict(drive.withdrawn)
    assert [finished.outcome for finished in drive.finished] == ["pass", "fail"]


def test_a_held_device_blocks_nothing_and_counts_for_nothing():
    drive = Drive(plan_of(6, waves=(3,)))
    a, b, c = drive.wave(1)
    drive.report(c, Phase.HELD)
    drive.commit(a, b)
    assert len(drive.asked) == 6
    drive.commit(c)
    assert drive.phase(c) is Phase.COMMITTED


def test_a_wave_waits_for_those_who_are_still_busy_until_its_deadline():
    drive = Drive(plan_of(8, waves=(4,), quorum_share=0.5, wave_deadline_s=600))
    drive.commit(*drive.wave(1)[:3])
    drive.wait(599)
    assert len(drive.asked) == 4
    drive.wait(1)
    assert len(drive.asked) == 8, "stuck in progress does not stop the fleet"


def test_too_few_results_by_the_deadline_pause_with_insufficient_data_and_do_not_abort():
    drive = Drive(plan_of(8, waves=(4,), quorum_share=0.75, wave_deadline_s=600))
    drive.commit(*drive.wave(1)[:2])
    drive.offline(drive.wave(1)[2])
    drive.wait(600)
    assert drive.state.status is Status.PAUSED
    assert drive.state.outcome == "insufficient"
    assert drive.state.sentence == (
        "Paused, insufficient data: 2 of 4 devices of wave 1 succeeded, 3 needed within 600 s; "
        "1 without a result; 1 offline"
    )
    assert drive.finished == []
    drive.feed(Resume(now_s=drive.now_s, who="ann"))
    assert drive.state.status is Status.RUNNING, "resuming starts the deadline anew"
    drive.wait(599)
    drive.commit(*drive.wave(1)[2:])
    assert len(drive.asked) == 8


def test_a_quorum_that_nobody_is_left_to_fill_pauses_without_waiting():
    drive = Drive(plan_of(4, waves=(2,), quorum_share=1.0, max_failures_count=1))
    good, bad = drive.wave(1)
    drive.commit(good)
    failing(drive, bad)
    assert drive.state.outcome == "insufficient"
    assert drive.asked == [good, bad]


def test_success_counts_only_after_its_soak():
    drive = Drive(plan_of(2, soak_s=300))
    drive.commit(*drive.wave(1))
    drive.wait(299)
    assert drive.asked == list(drive.wave(1))
    drive.wait(1)
    assert drive.asked == [*drive.wave(1), *drive.wave(2)]


def test_a_device_that_leaves_the_version_during_its_soak_is_a_failure():
    drive = Drive(plan_of(3, soak_s=300))
    (canary,) = drive.wave(1)
    drive.commit(canary)
    drive.wait(200)
    drive.report(canary, Phase.TRIAL)
    drive.report(canary, Phase.ROLLED_BACK, "p95 31 ms over 20 ms")
    drive.wait(200)
    assert drive.state.status is Status.ABORTED
    assert drive.asked == [canary]
    assert (
        "1 of 1 devices broke its health spec in trial and returned by itself: p95 31 ms over 20 ms"
        in drive.state.sentence
    )


def test_a_soak_that_outlasts_the_deadline_is_waited_for():
    drive = Drive(plan_of(2, soak_s=900, wave_deadline_s=600))
    drive.commit(*drive.wave(1))
    drive.wait(700)
    assert drive.state.status is Status.RUNNING
    drive.wait(200)
    assert len(drive.asked) == 2


def test_pause_asks_nobody_new_and_resume_goes_on():
    drive = Drive(plan_of(3))
    drive.feed(Pause(now_s=drive.now_s, who="ann", reason="lunch"))
    drive.commit(*drive.wave(1))
    drive.wait(10_000)
    assert drive.asked == list(drive.wave(1))
    assert drive.withdrawn == [], "devices already asked go on"
    drive.feed(Resume(now_s=drive.now_s, who="ann"))
    assert len(drive.asked) == 3


def test_a_paused_rollout_still_aborts():
    drive = Drive(plan_of(3))
    drive.feed(Pause(now_s=drive.now_s, who="ann"))
    failing(drive, *drive.wave(1))
    assert drive.state.status is Status.ABORTED


def test_resume_can_acknowledge_the_failures_already_seen():
    drive = Drive(plan_of(8, waves=(4,), max_failures_count=1))
    a, b, c, _ = drive.wave(1)
    failing(drive, a)
    drive.feed(Pause(now_s=drive.now_s, who="ann"))
    drive.feed(Resume(now_s=drive.now_s, who="ann", acknowledge=True))
    failing(drive, b)
    assert drive.state.status is Status.RUNNING
    failing(drive, c)
    assert drive.state.status is Status.ABORTED


def test_abort_by_an_operator_withdraws_what_is_not_committed_and_returns_nobody():
    drive = Drive(plan_of(5, waves=(3,)))
    a, b, c = drive.wave(1)
    drive.commit(a)
    drive.report(b, Phase.TRIAL)
    drive.feed(Abort(now_s=drive.now_s, who="ann", reason="wrong model"))
    assert sorted(device for device, _ in drive.withdrawn) == sorted([b, c])
    assert drive.returned == []
    assert drive.phase(a) is Phase.COMMITTED
    assert drive.state.sentence == "Aborted by ann: wrong model; 2 devices never asked"


def test_an_empty_last_wave_does_not_complete_while_promoted_ones_are_at_work():
    drive = Drive(plan_of(3, waves=(1, 1)))
    (last,) = drive.wave(3)
    drive.feed(Exclude(now_s=drive.now_s, who="ann", device=last))
    drive.feed(Promote(now_s=drive.now_s, who="ann", everything=True))
    assert drive.state.status is Status.RUNNING
    drive.commit(*drive.wave(1))
    assert drive.state.status is Status.RUNNING
    drive.commit(*drive.wave(2))
    assert drive.state.status is Status.COMPLETED


def test_promote_passes_a_wave_without_its_quorum():
    drive = Drive(plan_of(9, waves=(2, 3)))
    drive.feed(Promote(now_s=drive.now_s, who="ann"))
    assert drive.asked == [*drive.wave(1), *drive.wave(2)]
    drive.feed(Promote(now_s=drive.now_s, who="ann", everything=True))
    assert len(drive.asked) == 9
    drive.feed(Promote(now_s=drive.now_s, who="ann"))
    assert drive.state.status is Status.COMPLETED


def test_a_failure_in_a_promoted_wave_still_aborts():
    drive = Drive(plan_of(9, waves=(2, 3)))
    drive.feed(Promote(now_s=drive.now_s, who="ann"))
    failing(drive, drive.wave(1)[0])
    assert drive.state.status is Status.ABORTED
    assert len(drive.asked) == 5


def test_an_excluded_device_is_withdrawn_and_leaves_the_counts():
    drive = Drive(plan_of(6, waves=(3,), quorum_share=1.0))
    a, b, c = drive.wave(1)
    drive.commit(a, b)
    drive.feed(Exclude(now_s=drive.now_s, who="ann", device=c))
    assert [device for device, _ in drive.withdrawn] == [c]
    assert len(drive.asked) == 6, "two of two remaining are a quorum"
    later = drive.wave(2)[0]
    drive.report(c, Phase.FAILED, "late")
    assert drive.state.status is Status.RUNNING
    drive.feed(Exclude(now_s=drive.now_s, who="ann", device=later))
    assert drive.state.tallies[1].members == 2


def test_a_wave_whose_devices_are_all_excluded_is_passed_over():
    drive = Drive(plan_of(4, waves=(1, 1)), start=False)
    drive.feed(Exclude(now_s=0, who="ann", device=drive.wave(1)[0]))
    drive.feed(Start(now_s=drive.now_s, who="ann"))
    assert drive.asked == list(drive.wave(2))


@pytest.mark.parametrize(
    ("prepare", "command", "status"),
    [
        ([], Start, "running"),
        ([], Resume, "running"),
        ([Pause], Pause, "paused"),
        ([Abort], Resume, "aborted"),
        ([Abort], Abort, "aborted"),
        ([Abort], Promote, "aborted"),
        ([Rollback], Promote, "rolling_back"),
    ],
)
def test_a_command_that_the_table_does_not_allow_is_refused_and_changes_nothing(
    prepare, command, status
):
    drive = Drive(plan_of(3))

    def make(kind):
        more = {"reason": "x"} if kind is Abort else {}
        return kind(now_s=drive.now_s, who="ann", **more)

    for kind in prepare:
        drive.feed(make(kind))
    before = drive.state
    with pytest.raises(FleetError, match=f"rollout r1 is {status}: expected"):
        drive.feed(make(command))
    assert drive.state == before


def test_excluding_a_stranger_is_refused():
    drive = Drive(plan_of(3))
    with pytest.raises(FleetError, match="expected a device of its plan to exclude, got 'x'"):
        drive.feed(Exclude(now_s=drive.now_s, who="ann", device="x"))


def test_failures_are_grouped_by_how_and_why_and_the_sentence_names_the_largest():
    drive = Drive(plan_of(12, waves=(6,), max_failures_count=2))
    a, b, c, *_ = drive.wave(1)
    failing(drive, a, b)
    drive.report(c, Phase.REFUSED, "hardware differs")
    groups = failure_groups(drive.state)
    assert [(group.step, group.device_count) for group in groups] == [
        ("failed its self-test", 2),
        ("refused it", 1),
    ]
    assert drive.state.sentence == (
        "Aborted: 3 of 3 devices failed (limit 2): 2 failed its self-test: golden vectors differ; "
        "1 refused it: hardware differs; 6 devices never asked"
    )


def test_asks_name_only_the_digest_of_the_plan():
    drive = Drive(plan_of(3))
    drive.commit(*drive.wave(1), *drive.wave(2))
    digests = {effect.digest for effect in drive.effects if isinstance(effect, AskDevice)}
    assert digests == {drive.plan.digest_to}


NIGHT = "02:00-05:00"
DAY_S, HOUR_S = 86_400.0, 3600.0


def at_noon(**settings: object) -> Drive:
    """A rollout for the night, started at noon by a manager whose wave deadline is an hour."""
    drive = Drive(plan_of(3, window=NIGHT, **settings), start=False)
    drive.now_s = DAY_S * 19_000 + 12 * HOUR_S
    drive.feed(Start(now_s=drive.now_s, who="ann"))
    return drive


def test_a_device_that_waits_for_the_window_is_not_late():
    drive = at_noon(wave_deadline_s=HOUR_S)
    drive.report(*drive.wave(1), Phase.STAGED)
    drive.wait(14 * HOUR_S)  # 02:00
    drive.wait(HOUR_S - 1)
    assert drive.state.status is Status.RUNNING
    drive.wait(1)
    assert drive.state.status is Status.PAUSED
    assert drive.state.sentence == (
        "Paused, insufficient data: 0 of 1 devices of wave 1 succeeded, 1 needed within 3600 s of"
        " the window 02:00-05:00 UTC; 1 without a result"
    )


def test_a_deadline_longer_than_the_window_goes_on_in_the_next_night():
    drive = at_noon(wave_deadline_s=4 * HOUR_S)
    drive.wait(17 * HOUR_S)  # 05:00, three hours of four
    drive.wait(21 * HOUR_S)  # 02:00 of the next night
    drive.wait(HOUR_S - 1)
    assert drive.state.status is Status.RUNNING
    drive.wait(1)
    assert drive.state.status is Status.PAUSED


def test_a_device_that_waits_for_a_window_of_its_own_is_not_late_either():
    drive = Drive(plan_of(3, wave_deadline_s=HOUR_S))
    (name,) = drive.wave(1)
    opens_s = drive.now_s + 10 * HOUR_S
    drive.facts(name, opens_at_s=opens_s)
    drive.wait(10 * HOUR_S)
    assert drive.state.status is Status.RUNNING
    drive.facts(name, opens_at_s=0.0)  # it waits no more: it installs, and has an hour for that
    drive.wait(HOUR_S - 1)
    assert drive.state.status is Status.RUNNING
    drive.wait(1)
    assert drive.state.status is Status.PAUSED


def test_a_wait_of_an_earlier_order_or_of_a_device_that_is_gone_excuses_nothing():
    for gone in (False, True):
        drive = Drive(plan_of(3, wave_deadline_s=HOUR_S))
        (name,) = drive.wave(1)
        seq = None if gone else drive.signed[name] - 1
        drive.facts(name, seq=seq, opens_at_s=drive.now_s + 10 * HOUR_S)
        if gone:
            drive.offline(name)
        drive.wait(HOUR_S)
        assert drive.state.status is Status.PAUSED


def test_the_way_back_waits_for_no_window():
    drive = at_noon()
    drive.commit(*drive.wave(1))
    drive.feed(Rollback(now_s=drive.now_s, who="ann"))
    drive.wait(HOUR_S)
    assert drive.state.status is Status.ROLLED_BACK


def test_a_plan_tells_its_window():
    plan = plan_of(3, window=NIGHT)
    assert "installs only 02:00-05:00 UTC" in preview_text(plan)
    assert preview_dict(plan)["window"] == NIGHT
