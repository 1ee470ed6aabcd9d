"""A rollout from the order to the last device, over a real broker."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
from sqlalchemy import select

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from fleet.store import schema
from fleet.store.devices import get_device
from fleet.views.rollout import RolloutDetail
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import SimulatedDevice, wait_until

QUICK = Gate(quorum_share=1.0)


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_version_reaches_all_devices_in_waves(
    make_fleet: Callable[[str], FleetUnderTest], kind: str
) -> None:
    fleet = make_fleet(kind)
    fleet.start_manager()
    digest = fleet.publish("1.0.0")
    devices = fleet.enrolled("cam-1", "cam-2", "cam-3")
    fleet.published("1.0.0")
    order = RolloutOrder(line="digits", version="1.0.0", counts=[1], gate=QUICK)
    rollout = fleet.service.start_rollout(order, who="ann")
    assert (rollout.status, rollout.wave, len(rollout.waves)) == ("running", 1, 2)

    first = wait_until(lambda: next((d for d in devices if d.desired), None))
    assert [d for d in devices if d.desired] == [first]
    desired = first.order()
    assert desired.manifest_digest == digest
    assert desired.rollout == rollout.id == "digits-1.0.0"
    assert first.metadata[-1].line == "digits"
    first.install(desired)
    for device in devices:
        if device is not first:
            device.install(device.order())
    done = wait_until(
        lambda: next((r for r in fleet.service.rollouts() if r.status == "completed"), None)
    )
    assert (done.committed_count, done.outcome) == (3, "pass")
    wait_until(lambda: not any(d.unacknowledged for d in devices), what="for acks")
    views = fleet.service.devices()
    assert {(v.version, v.digest, v.desired_version) for v in views} == {("1.0.0", digest, "1.0.0")}
    assert fleet.service.versions()[0].running_on_count == 3


def start(fleet: FleetUnderTest, version: str, **changes: object) -> str:
    fleet.publish(version)
    fleet.published(version)
    order = RolloutOrder(line="digits", version=version, **changes)  # type: ignore[arg-type]
    return fleet.service.start_rollout(order, who="ann").id


def bring_all_to(fleet: FleetUnderTest, version: str, *names: str) -> list[SimulatedDevice]:
    """Enrol devices and roll a first version out to them."""
    devices = fleet.enrolled(*names)
    rollout = start(fleet, version, shares=[1.0], gate=QUICK)
    for device in devices:
        device.install(device.order())
    until(fleet, rollout, "completed")
    return devices


def until(fleet: FleetUnderTest, rollout: str, status: str) -> RolloutDetail:
    def there() -> RolloutDetail | None:
        detail = fleet.service.rollout(rollout)
        return detail if detail.rollout.status == status else None

    found: RolloutDetail = wait_until(there, what=f"for {rollout} to be {status}")
    return found


def asked(devices: list[SimulatedDevice], version: str) -> list[SimulatedDevice]:
    return [d for d in devices if any(o and o.version == version for o in d.desired)]


def test_a_failure_aborts_and_nobody_else_is_asked(fleet: FleetUnderTest) -> None:
    devices = bring_all_to(fleet, "1.0.0", "cam-1", "cam-2", "cam-3")
    rollout = start(fleet, "1.1.0", counts=[1])
    (victim,) = wait_until(lambda: asked(devices, "1.1.0"))
    bad = victim.order(1)
    victim.fail(bad, "golden vectors differ")
    detail = until(fleet, rollout, "aborted")
    assert "golden vectors differ" in detail.rollout.sentence
    assert detail.rollout.outcome == "fail"
    assert [group.devices for group in detail.failures] == [[victim.name]]
    # The order that named the bad version is replaced by one that names the good one again.
    again = victim.order(bad.seq)
    assert (again.version, again.seq) == ("1.0.0", bad.seq + 1)
    assert asked(devices, "1.1.0") == [victim]
    assert detail.log[0].text == "Started by ann"


def test_a_revoked_device_is_left_out_and_holds_nobody_up(fleet: FleetUnderTest) -> None:
    revoked, good = bring_all_to(fleet, "1.0.0", "cam-1", "cam-2")
    fleet.service.revoke_device("cam-1", who="ann", reason="stolen")
    rollout = start(fleet, "1.1.0", shares=[1.0], gate=QUICK)
    good.install(good.order(1))
    until(fleet, rollout, "completed")
    assert asked([revoked], "1.1.0") == []


def test_a_roll_back_returns_whoever_is_on_the_new_version(fleet: FleetUnderTest) -> None:
    devices = bring_all_to(fleet, "1.0.0", "cam-1", "cam-2")
    rollout = start(fleet, "1.1.0", shares=[1.0])
    for device in devices:
        device.install(device.order(1))
    until(fleet, rollout, "completed")
    view = fleet.service.rollback(rollout, who="ann", reason="wrong labels")
    assert view.status == "rolling_back"
    for device in devices:
        device.install(device.order(2))
    assert until(fleet, rollout, "rolled_back").rollout.sentence
    assert {view.version for view in fleet.service.devices()} == {"1.0.0"}


def test_a_device_that_has_something_on_trial_returns_to_what_it_runs_for_good(
    fleet: FleetUnderTest,
) -> None:
    (device,) = bring_all_to(fleet, "1.0.0", "cam-1")
    # As the agent says it: the committed version is the active one, and its slot of before is full.
    device.say_state(update_phase="trial", fallback_digest="")
    wait_until(lambda: fleet.service.device("cam-1").device.state == "updating")
    rollout = start(fleet, "1.1.0")
    assert fleet.service.rollout(rollout).devices[0].version_from == "1.0.0"


def test_a_device_is_revoked_although_its_rollout_is_on_the_way_back(
    fleet: FleetUnderTest,
) -> None:
    devices = bring_all_to(fleet, "1.0.0", "cam-1", "cam-2")
    rollout = start(fleet, "1.1.0", shares=[1.0])
    for device in devices:
        device.install(device.order(1))
    until(fleet, rollout, "completed")
    fleet.service.rollback(rollout, who="ann", reason="wrong labels")
    fleet.service.revoke_device("cam-1", who="ann", reason="stolen")
    devices[1].install(devices[1].order(2))
    assert "1 of 1" in until(fleet, rollout, "rolled_back").rollout.sentence


def test_a_device_that_was_excluded_can_be_removed_while_its_rollout_runs(
    fleet: FleetUnderTest,
) -> None:
    bring_all_to(fleet, "1.0.0", "cam-1", "cam-2")
    rollout = start(fleet, "1.1.0", shares=[1.0])
    fleet.service.exclude(rollout, ["cam-1"], who="ann")
    fleet.service.remove_device("cam-1", who="ann")
    assert [view.device for view in fleet.service.devices()] == ["cam-2"]


def test_without_a_version_before_an_abort_withdraws_the_order(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    rollout = start(fleet, "1.0.0")
    first = device.order()
    fleet.service.abort(rollout, who="ann", reason="second thoughts")
    wait_until(lambda: device.desired[-1] is None, what="for the topic to be cleared")
    # Its number is used up, so what the device still says about the old order counts no more.
    device.install(first)
    wait_until(lambda: not device.unacknowledged)
    again = start(fleet, "1.0.1")
    assert device.order(first.seq).seq == first.seq + 2
    assert fleet.service.rollout(again).devices[0].version_from == "1.0.0"


def test_orders_are_numbered_above_what_the_device_reports(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    device.say_state(desired_seq=41)  # the store is older than the device: a restored backup
    wait_until(lambda: fleet.service.device("cam-1").device.desired_seq == 0)
    wait_until(lambda: _reported(fleet, "cam-1") == 41)
    start(fleet, "1.0.0")
    assert device.order().seq == 42


def _reported(fleet: FleetUnderTest, device: str) -> int:
    store = fleet.open_store()
    with store.read() as tx:
        row = get_device(tx, device)
    store.close()
    return row.reported_seq if row else -1


def test_a_wave_without_its_quorum_pauses_for_insufficient_data(fleet: FleetUnderTest) -> None:
    devices = fleet.enrolled("cam-1", "cam-2")
    gate = Gate(wave_deadline_s=1.0)
    rollout = start(fleet, "1.0.0", counts=[1], gate=gate)
    detail = until(fleet, rollout, "paused")
    assert detail.rollout.outcome == "insufficient"
    assert detail.rollout.commands == ["resume", "abort", "rollback", "promote", "exclude"]
    (first,) = [d for d in devices if d.desired]
    fleet.service.resume(rollout, who="ann")
    first.install(first.order())
    wait_until(lambda: all(d.desired for d in devices), what="for the second wave")


def test_a_rollout_goes_on_after_the_manager_was_restarted(fleet: FleetUnderTest) -> None:
    devices = fleet.enrolled("cam-1", "cam-2")
    rollout = start(fleet, "1.0.0", counts=[1], gate=QUICK)
    (first,) = wait_until(lambda: [d for d in devices if d.desired])
    fleet.stop_manager()
    first.install(first.order())  # nobody listens
    fleet.start_manager()
    first.resend()
    first.say_state()
    (second,) = [d for d in devices if d is not first]
    second.install(second.order())
    until(fleet, rollout, "completed")


def test_refused_orders_change_nothing_and_are_audited(fleet: FleetUnderTest) -> None:
    fleet.enrolled("cam-1")
    service = fleet.service
    with pytest.raises(FleetError, match=r"digits 9\.9\.9 is not published; published: nothing"):
        service.start_rollout(RolloutOrder(line="digits", version="9.9.9"), who="ann")
    rollout = start(fleet, "1.0.0")
    with pytest.raises(FleetError, match=r"digits-1\.0\.0 of digits is running; only one"):
        service.start_rollout(RolloutOrder(line="digits", version="1.0.0"), who="bob")
    with pytest.raises(FleetError, match="no rollout 'nonsense'") as caught:
        service.pause("nonsense", who="ann")
    assert caught.value.exit_code is ExitCode.NOT_FOUND
    with pytest.raises(FleetError, match="is running: expected"):
        service.resume(rollout, who="ann")
    assert service.pause(rollout, who="ann", reason="lunch").status == "paused"
    with fleet.open_store().read() as tx:
        rows = tx.execute(select(schema.audit.c.who, schema.audit.c.action, schema.audit.c.outcome))
        audit = [(who, action, outcome.split(":")[0]) for who, action, outcome in rows]
    assert audit == [
        ("ann", "start", "refused"),
        ("ann", "start", "done"),
        ("bob", "start", "refused"),
        ("ann", "pause", "refused"),
        ("ann", "resume", "refused"),
        ("ann", "pause", "done"),
    ]


def test_a_dry_run_is_what_then_happens(fleet: FleetUnderTest) -> None:
    devices = fleet.enrolled("cam-1", "cam-2", "cam-3")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    order = RolloutOrder(line="digits", version="1.0.0", counts=[1], gate=QUICK)
    plan = fleet.service.plan_rollout(order, who="ann")
    assert fleet.service.rollouts() == []
    assert plan.eligible_count == 3
    assert plan.bytes_total > 0
    fleet.service.start_rollout(order, who="ann")
    (first,) = wait_until(lambda: [d for d in devices if d.desired])
    assert plan.waves[0].devices == [first.name]


def test_a_dry_run_names_who_would_wait_for_a_window_for_ever(fleet: FleetUnderTest) -> None:
    _, wrong = fleet.enrolled("cam-1", "cam-2")
    fleet.publish("1.0.0")
    fleet.published("1.0.0")
    wrong.say_state(more={"clock_known": False})
    order = RolloutOrder(line="digits", version="1.0.0", shares=[1.0], window="02:00-04:00")
    wait_until(lambda: fleet.service.plan_rollout(order, who="ann").clockless == ["cam-2"])
    text = fleet.service.plan_rollout(order, who="ann").text
    assert "cam-2: the clock is not known to be right there" in text
    always = msgspec.structs.replace(order, window="")
    assert fleet.service.plan_rollout(always, who="ann").clockless == []


def test_a_device_that_drops_off_is_offline_and_not_failed(fleet: FleetUnderTest) -> None:
    devices = fleet.enrolled("cam-1", "cam-2")
    rollout = start(fleet, "1.0.0", shares=[1.0], gate=QUICK)
    gone, stays = devices
    gone.order()
    gone.drop()
    stays.install(stays.order())
    wait_until(lambda: fleet.service.rollout(rollout).phases == {"offline": 1, "committed": 1})
    assert {v.device: v.online for v in fleet.service.devices()} == {"cam-1": False, "cam-2": True}
    gone.connect()
    gone.install(gone.order())
    until(fleet, rollout, "completed")
