"""A medium's order from the stick to the commit: cuts, retries, and the fleet beside it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from edge_agent.api import Request
from edge_agent.update.events import DeadlinePassed, Event, Withdrawn
from edge_agent.update.state import Stage
from tests.trust.media_simulator import MediaPublisher
from tests.update.device import Clock, Died
from tests.update.fleet import FLEET, SLOW, V1, V2, V3, WRONG, give
from tests.update.medium_bench import (
    MediumBench,
    last,
    media_publisher,
    write_approved,
    write_stick,
)


class Setup:
    """One device, its publisher, and every run of its agent."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.publisher: MediaPublisher = media_publisher()
        self.clock = Clock()
        (home / "state").mkdir()

    def start(self, boot: str = "clean") -> MediumBench:
        bench = MediumBench(self.home / "state", self.publisher, self.clock)
        bench.device.boot(boot)  # type: ignore[arg-type]
        return bench


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_power_cut_between_the_sequence_and_the_journal_does_not_spend_the_stick(
    setup: Setup,
) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V1, 1)
    bench = setup.start()

    def cut(event: Event) -> None:
        raise Died  # the trust directory knows the sequence, the journal never hears of it

    bench.order = cut
    bench.begin(stick)
    with pytest.raises(Died):
        bench.loop()
    bench.device.off()
    again = setup.start("power")
    assert again.apply(stick)["phase"] == "committed"
    assert again.device.running == V1.digest
    assert "replay" in again.apply(stick)["error"], "once it was begun, it counts no more"


def test_a_stick_whose_number_was_passed_is_a_replay_also_where_it_never_began(
    setup: Setup,
) -> None:
    older = write_stick(setup.home / "older", setup.publisher, V1, 1)
    newer = write_stick(setup.home / "newer", setup.publisher, V2, 2)
    forged = write_stick(setup.home / "other", setup.publisher, V1, 2, rollout="another")
    bench = setup.start()
    assert bench.apply(newer)["phase"] == "committed"
    for stick in (older, forged):
        assert "replay" in bench.apply(stick)["error"]
    assert bench.device.manager.state.stage is Stage.IDLE
    assert bench.device.running == V2.digest


def test_a_stick_whose_trial_failed_is_tried_again_only_when_a_person_says_so(
    setup: Setup,
) -> None:
    good = write_stick(setup.home / "good", setup.publisher, V1, 1)
    stick = write_stick(setup.home / "stick", setup.publisher, SLOW, 2)
    bench = setup.start()
    bench.apply(good)
    failed = bench.apply(stick)
    assert failed["phase"] == "rolled_back"
    refused = bench.apply(stick)
    assert refused["error"].startswith("replay: this medium (sequence 2) was carried out: ")
    assert "rolled_back" in refused["error"]
    assert failed["text"] in refused["error"], "why it failed"
    assert "--again" in refused["hint"]
    bench.device.off()
    bench = setup.start()
    bench.device.fleet = {
        **FLEET,
        SLOW.digest: replace(SLOW, behaviour="good"),
    }  # the cause is gone
    done = bench.apply(stick, again=True)
    assert done["phase"] == "committed"
    assert done["receipt_name"] != failed["receipt_name"], "the stick brings both receipts back"
    assert bench.device.running == SLOW.digest
    done = bench.apply(stick, again=True)
    assert "committed" in done["error"], "what is installed is not installed again"
    assert "--again" not in done["hint"]


def test_again_does_not_bring_a_stick_back_over_what_came_after_it(setup: Setup) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, WRONG, 1)
    bench = setup.start()
    assert bench.apply(stick)["phase"] == "failed"
    give(bench.device, V2, 7).settle(until=Stage.FETCHING)
    while_it_goes_on = bench.begin(stick, again=True)
    bench.loop()
    after = bench.apply(stick, again=True)
    for reply in (last(while_it_goes_on), after):
        assert "other orders came after it" in reply["error"]
    assert bench.device.settle().running == V2.digest


def test_a_stick_that_is_being_applied_says_so(setup: Setup) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V1, 1)
    bench = setup.start()
    bench.device.manager.hold()
    first = bench.begin(stick)
    bench.loop()
    first.given_up = True
    assert "is being carried out" in bench.apply(stick, again=True)["error"]
    bench.device.manager.release()
    assert bench.device.settle().running == V1.digest


def test_a_client_hears_nothing_of_the_stick_whose_client_gave_up(setup: Setup) -> None:
    one = write_stick(setup.home / "one", setup.publisher, V1, 1)
    two = write_stick(setup.home / "two", setup.publisher, V2, 2)
    bench = setup.start()
    first = bench.begin(one)
    bench.copy()  # ordered; its trial outlasts the client's patience
    bench.device.settle(until=Stage.TRIAL)
    first.given_up = True
    second = bench.begin(two)
    bench.device.settle()  # the first order ends before the loop hears that the second was copied
    bench.loop()
    done = last(second)
    assert (done["phase"], done["receipt_name"]) == ("committed", "2-2")
    assert bench.device.running == V2.digest


def until_begun(bench: MediumBench, client: Request) -> None:
    """Up to the first step that the client hears of its order."""
    while client._replies.empty():
        assert bench.device.pump(), "nothing was begun"
        bench.hear_posted()


@pytest.mark.parametrize("stage", [Stage.PRE_FETCH, Stage.STAGING, Stage.TRIAL, Stage.HEALTH])
@pytest.mark.parametrize("seq", [2, 3, 9])
def test_a_client_hears_the_end_of_the_order_that_took_its_place_whatever_its_number(
    setup: Setup, stage: Stage, seq: int
) -> None:
    bench = setup.start()
    give(bench.device, V1, 1).settle()
    bench.apply(write_stick(setup.home / "first", setup.publisher, V3, 1))
    by_file = bench.begin_local(write_approved(setup.home / "file", setup.publisher, V2))
    until_begun(bench, by_file)
    by_stick = bench.begin(write_stick(setup.home / "second", setup.publisher, V2, 2))
    until_begun(bench, by_stick)
    assert bench.device.manager.state.seen == (1, 4)
    if stage is not Stage.PRE_FETCH:
        bench.device.settle(until=stage)
    give(bench.device, V2, seq)  # signed before the fleet heard of orders 2 to 4
    bench.loop()
    assert bench.device.manager.state.obeyed == (1, seq)
    done = last(by_stick)
    assert (last(by_file)["phase"], done["phase"]) == ("committed", "committed")
    assert done["receipt_name"] == "2-4", "of the device's own number: no other receipt has it"
    assert len(done["receipt"]["messages"]) >= 3


def test_a_client_does_not_take_the_end_of_an_older_order_of_the_same_version_for_its_own(
    setup: Setup,
) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V2, 1)
    bench = setup.start()
    give(bench.device, V2, 7).settle(until=Stage.TRIAL)
    bench.device.manager.handle(DeadlinePassed("too slow"))
    assert bench.device.manager.state.stage is Stage.ROLLING_BACK
    request = bench.begin(stick)
    bench.copy()  # it waits for the way back of the fleet's order, which ends as rolled back
    bench.loop()
    assert last(request)["phase"] == "committed"
    assert bench.device.phases(7)[-1] == "rolled_back"


def test_the_fleet_takes_back_its_own_order_and_not_the_stick_s(setup: Setup) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V1, 1)
    bench = setup.start()
    request = bench.begin(stick)
    bench.copy()
    assert bench.device.manager.state.stage is Stage.PRE_FETCH
    bench.device.manager.handle(Withdrawn("the fleet took its order back"))
    bench.loop()
    assert last(request)["phase"] == "committed"


def test_an_update_that_ends_while_a_medium_is_copied_leaves_the_copy_alone(
    setup: Setup,
) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V2, 1)
    bench = setup.start()
    give(bench.device, WRONG, 1).settle(until=Stage.SELF_TEST)
    request = bench.begin(stick)
    bench.device.pending.pop()()  # the worker has copied it; the loop has heard of nothing yet
    bench.device.pump()  # now of the self-test: the update ends, and cleans up
    assert bench.device.manager.state.stage is Stage.IDLE
    bench.loop()
    assert last(request)["phase"] == "committed"
    assert V2.digest not in bench.device.fetched, "no network was needed"
    assert not list((setup.home / "state" / "blobs").iterdir())


def test_a_stick_whose_version_runs_already_leaves_nothing_behind(setup: Setup) -> None:
    bench = setup.start()
    for sequence in (1, 2):
        stick = write_stick(setup.home / f"stick-{sequence}", setup.publisher, V1, sequence)
        assert bench.apply(stick)["phase"] == "committed"
        assert not list((setup.home / "state" / "blobs").iterdir())
    bundle = write_approved(setup.home / "file", setup.publisher, V1)
    request = bench.begin_local(bundle)
    bench.loop()
    assert last(request)["text"] == "it is the active version already, so nothing needs doing"
    assert not list((setup.home / "state" / "blobs").iterdir())


def test_a_stick_whose_order_was_held_to_its_end_leaves_nothing_behind(setup: Setup) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V2, 1)
    bench = setup.start()
    bench.device.manager.hold()
    request = bench.begin(stick)
    bench.loop()
    assert list((setup.home / "state" / "blobs").iterdir())
    bench.device.manager.handle(DeadlinePassed("it waited for too long"))
    bench.loop()
    assert last(request)["phase"] == "failed"
    assert not list((setup.home / "state" / "blobs").iterdir())


def test_what_a_given_up_client_let_copy_is_removed(setup: Setup) -> None:
    stick = write_stick(setup.home / "stick", setup.publisher, V2, 1)
    empty = setup.home / "empty"
    empty.mkdir()
    bench = setup.start()
    bench.begin(stick).given_up = True
    assert "cannot read the medium" in bench.apply(empty)["error"]
    assert not list((setup.home / "state" / "blobs").iterdir())


def test_a_stick_counts_in_the_epoch_that_offline_keys_signed(setup: Setup) -> None:
    bench = setup.start()
    give(bench.device, V1, 2**52).settle()  # what a thief of the director's key ordered last
    setup.publisher.name_director(epoch=2)
    stick = write_stick(setup.home / "stick", setup.publisher, V2, 1, epoch=2)
    assert bench.apply(stick)["phase"] == "committed"
    assert bench.device.manager.state.seen == (2, 1), "the burnt numbers are left behind"
    setup.publisher.bump()
    request = bench.begin_local(write_approved(setup.home / "file", setup.publisher, V3))
    bench.loop()
    assert last(request)["phase"] == "committed"
    assert bench.device.manager.state.seen == (2, 2)
