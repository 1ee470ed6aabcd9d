"""A manager on a backup that is older than what devices do: it leads again, and takes none back."""

from __future__ import annotations

import shutil
from pathlib import Path

from edge_contract.signing import fingerprint, public_bytes
from fleet.manager.after_restore import stand_still
from fleet.repository.backup import make_backup, restore_backup
from fleet.repository.ceremony import Ceremony
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from fleet.store import open_store
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import FLEET, SimulatedDevice, wait_until

PASSPHRASE = "correct horse battery"


def restored(fleet: FleetUnderTest, backup: Path) -> None:
    """The manager is gone, and another begins on the backup, as `edge-fleet restore` leaves it."""
    fleet.stop_manager()
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
        RolloutOrder(line="digits", version=version, gate=Gate(quorum_share=1.0)), who="ann"
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
