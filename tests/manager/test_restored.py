"""A manager on a backup that is older than what devices do: it leads again, and takes none back."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_contract.health import HealthSpec
from edge_contract.signing import fingerprint, public_bytes
from fleet.manager.after_restore import stand_still
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.rollouts import Rollouts
from fleet.repository.backup import make_backup, restore_backup
from fleet.repository.ceremony import Ceremony
from fleet.rollout import Candidate, make_plan, new_rollout
from fleet.rollout.events import Resume, Start
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from fleet.store import open_store, orders
from fleet.store.rollouts import RolloutRow
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, SimulatedDevice, wait_until

PASSPHRASE = "correct horse battery"


def restored(fleet: FleetUnderTest, backup: Path, *, broker: bool = True) -> None:
    """The manager is gone, and another begins on the backup, as `edge-fleet restore` leaves it.

    Args:
        broker: whether the broker is the same; a new one knows nothing of what was retained.
    """
    fleet.stop_manager()
    if not broker:
        fleet.broker.stop()
        shutil.rmtree(fleet.directory / "broker")
        fleet.broker = fleet.start_broker()
    state = fleet.store_path.parent
    shutil.rmtree(state)

    def settle(unpacked: Path) -> None:
        store = open_store(unpacked / "fleet.db", fleet=FLEET)
        stand_still(store, who="ann", now_s=fleet.clock.wall_s())
        store.close()

    restore_backup(backup, state, PASSPHRASE, settle=settle)
    fleet.start_manager()


def roll_out(fleet: FleetUnderTest, version: str, *devices: SimulatedDevice) -> str:
    fleet.published(version)
    started = fleet.service.start_rollout(
        RolloutOrder(line="digits", version=version, shares=[1.0], gate=Gate(quorum_share=1.0)),
        who="ann",
    )
    for device in devices:
        device.install(device.order(seq_above=device.desired_seq))
    return started.id


def status(fleet: FleetUnderTest, rollout: str) -> str:
    return fleet.service.rollout(rollout).rollout.status


def test_an_order_that_a_newer_one_has_replaced_is_not_signed_anew(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    (device,) = fleet.enrolled("cam-1")
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    first = roll_out(fleet, "1.0.0", device)
    wait_until(lambda: status(fleet, first) == "completed", what="for the first rollout")
    make_backup(fleet.store_path.parent, tmp_path / "backup", PASSPHRASE, blobs=True)
    second = roll_out(fleet, "1.1.0", device)
    wait_until(lambda: status(fleet, second) == "completed", what="for the second rollout")
    newest = device.desired[-1]
    restored(fleet, tmp_path / "backup")
    device.say_state(desired_seq=newest.seq, digest=newest.manifest_digest)
    assert fleet.manager is not None
    wait_until(
        lambda: fleet.service.device("cam-1").device.version == "1.1.0", what="for its state"
    )
    ceremony = Ceremony(fleet.repository, "ann")

    def revoke() -> None:
        assert ceremony.revoke(fingerprint(fleet.director), None).committed
        device.director = public_bytes(fleet.repository.director_key())

    heard = len(device.desired)
    fleet.manager.do(revoke)
    fleet.manager.do(lambda: None)
    # The fleet's next order is above all that the device has seen.
    fleet.publish("1.2.0")
    roll_out(fleet, "1.2.0")
    last = device.order(seq_above=newest.seq)
    assert last.version == "1.2.0"
    assert [item.version for item in device.desired[heard:] if item] == ["1.2.0"]


def test_a_device_that_refuses_the_backup_s_old_order_is_not_sent_further_back(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    (device,) = fleet.enrolled("cam-1")
    orders = []
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        if version == "1.2.0":
            make_backup(fleet.store_path.parent, tmp_path / "backup", PASSPHRASE, blobs=True)
        fleet.publish(version)
        rollout = roll_out(fleet, version, device)
        wait_until(lambda r=rollout: status(fleet, r) == "completed", what=version)
        orders.append((rollout, device.desired[-1]))
    restored(fleet, tmp_path / "backup")
    device.say_state()
    rollout, old = orders[1]
    heard = len(device.desired)
    device.say_status("refused", old, "order refused: replay: expected an order after seq 3")
    wait_until(lambda: not device.unacknowledged, what="for the refusal to be taken in")
    assert fleet.manager is not None
    fleet.manager.do(lambda: None)
    assert status(fleet, rollout) == "completed"
    assert "1.0.0" not in [item.version for item in device.desired[heard:] if item]


def test_a_rollout_that_ran_at_the_backup_waits_for_a_person(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    asked, late = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    rollout = fleet.service.start_rollout(
        RolloutOrder(
            line="digits", version="1.0.0", shares=[0.5, 1.0], gate=Gate(quorum_share=1.0)
        ),
        who="ann",
    ).id
    make_backup(fleet.store_path.parent, tmp_path / "backup", PASSPHRASE, blobs=True)
    restored(fleet, tmp_path / "backup")
    assert status(fleet, rollout) == "paused"
    assert "a backup was restored" in fleet.service.rollout(rollout).rollout.sentence
    first = asked if asked.desired else late
    first.install(first.order())
    assert [bool(device.desired) for device in (asked, late)].count(True) == 1


def test_devices_that_obey_a_later_epoch_than_the_backup_are_told_of(
    fleet: FleetUnderTest,
) -> None:
    (device,) = fleet.enrolled("cam-1")
    manager = fleet.manager
    assert manager is not None
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    device.say_state(desired_epoch=2, desired_seq=7)

    def problem() -> str:
        manager.do(manager._desk.renew_due)
        return fleet.service.health().problem

    assert "obey epoch 2" in wait_until(problem, what="for the problem")
    assert "edge-fleet key epoch" in problem()
    assert Ceremony(fleet.repository, "ann").raise_epoch().committed
    roll_out(fleet, "1.0.0")
    order = device.order()
    assert (order.epoch, order.seq) == (2, 8)
    assert not fleet.service.health().problem


def test_nothing_is_signed_anew_for_a_device_before_it_has_said_where_it_stands(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    ahead, behind = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    first = roll_out(fleet, "1.0.0", ahead, behind)
    wait_until(lambda: status(fleet, first) == "completed", what="for the first rollout")
    fleet.service.configure(ConfigureOrder(settings={"log.level": "debug"}), who="ann")
    make_backup(fleet.store_path.parent, tmp_path / "backup", PASSPHRASE, blobs=True)
    started = fleet.service.start_rollout(
        RolloutOrder(line="digits", version="1.1.0", devices=["cam-1"]), who="ann"
    )
    ahead.install(ahead.order(seq_above=ahead.desired_seq))
    wait_until(lambda: status(fleet, started.id) == "completed", what="for the second rollout")
    ahead.more = {"config_epoch": 1, "config_seq": 7}
    for device in (ahead, behind):
        device.disconnect()
    restored(fleet, tmp_path / "backup", broker=False)
    manager = fleet.manager
    assert manager is not None
    before = [(row.desired_seq, row.configuration.seq) for row in fleet.service.devices()]
    assert Ceremony(fleet.repository, "ann").raise_epoch().committed
    manager.do(manager.poll_repository)
    manager.do(manager._watch.hourly)
    now = [(row.desired_seq, row.configuration.seq) for row in fleet.service.devices()]
    assert now == before
    # A rollout may ask meanwhile; its order is numbered once the device has said its number.
    ahead.desired_epoch, ahead.desired_seq = 2, 40
    fleet.publish("1.2.0")
    fleet.published("1.2.0")
    order = RolloutOrder(line="digits", version="1.2.0", devices=["cam-1"], shares=[1.0])
    rollout = fleet.service.start_rollout(order, who="ann")
    assert fleet.service.device("cam-1").device.desired_seq == before[0][0]
    ahead.connect()
    asked = wait_until(lambda: ahead.desired[-1].version == "1.2.0" and ahead.desired[-1])
    assert (asked.epoch, asked.seq) == (2, 41)
    ahead.install(asked)
    wait_until(lambda: status(fleet, rollout.id) == "completed", what="for the last rollout")
    behind.connect()
    again = wait_until(lambda: behind.desired[-1].epoch == 2 and behind.desired[-1])
    assert again.version == "1.0.0", "it has not gone on"
    assert [item.version for item in ahead.desired if item.epoch == 2] == ["1.2.0"]


def test_a_rollback_that_was_under_way_at_the_backup_waits_for_a_person(
    fleet: FleetUnderTest, tmp_path: Path
) -> None:
    near, far = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.publish("1.1.0")
    first = roll_out(fleet, "1.0.0", near, far)
    wait_until(lambda: status(fleet, first) == "completed", what="for the first rollout")
    rollout = roll_out(fleet, "1.1.0", near, far)
    wait_until(lambda: status(fleet, rollout) == "completed", what="for the rollout")
    far.disconnect()
    fleet.service.rollback(rollout, who="ann")
    near.install(near.order(seq_above=near.desired_seq))
    make_backup(fleet.store_path.parent, tmp_path / "backup", PASSPHRASE, blobs=True)
    restored(fleet, tmp_path / "backup")
    view = fleet.service.rollout(rollout).rollout
    assert view.status == "return_paused"
    assert "a backup was restored" in view.sentence
    assert view.commands == ["resume", "abort", "exclude"]
    far.connect()
    far.install(far.order(seq_above=far.desired_seq))
    wait_until(
        lambda: fleet.service.rollout(rollout).phases.get("returned") == 2, what="for its return"
    )
    assert status(fleet, rollout) == "return_paused"
    fleet.service.resume(rollout, who="ann")
    wait_until(lambda: status(fleet, rollout) == "rolled_back", what="for the end")


def test_what_a_paused_rollout_of_the_backup_had_not_signed_yet_waits_with_it(
    tmp_path: Path,
) -> None:
    store = open_store(tmp_path / "fleet.db", fleet=FLEET)
    plan = make_plan(
        *("r1", "digits", "1.0.0", "sha256:" + "a" * 64),
        [Candidate("cam-1", "pi4", "digits")],
        hardware=["pi4"],
    )
    held = Rollouts()
    row = RolloutRow(
        id="r1",
        state=new_rollout(plan),
        health=HealthSpec(),
        created_at_s=1.0,
        created_by="ann",
        updated_at_s=1.0,
    )
    with store.write() as tx:
        turn = held.open(tx, 1.0)
        turn.begin(row, Start(now_s=1.0, who="ann"))
        turn.write()
        turn.committed()
        assert len(orders.pending_effects(tx, 9)) == 1
    assert stand_still(store, who="ann", now_s=2.0) == ["r1"]
    with store.write() as tx:
        held.load(tx)
        assert orders.pending_effects(tx, 9) == []
        turn = held.open(tx, 3.0)
        turn.command("r1", Resume(now_s=3.0, who="ann"))
        turn.write()
        assert len(orders.pending_effects(tx, 9)) == 1
