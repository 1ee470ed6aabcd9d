"""A rollout from the order to the last device, over a real broker."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fleet.rollout.gate import Gate
from fleet.service import RolloutOrder
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import wait_until

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
