"""What a fleet wants of its devices' settings: signed, numbered, retained, and told truly."""

from __future__ import annotations

import pytest

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.manager.configuration_view import ConfigurationView
from fleet.manager.configure_order import ConfigureOrder
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import SimulatedDevice, wait_until


def view(fleet: FleetUnderTest, device: str) -> ConfigurationView:
    return fleet.service.device(device).device.configuration


def newest(device: SimulatedDevice, seq: int) -> dict[str, str | float]:
    wait_until(lambda: device.configurations and device.configurations[-1].seq == seq)
    return device.configurations[-1].settings


def test_wishes_add_up_go_again_and_reach_a_device_that_was_away(fleet: FleetUnderTest) -> None:
    one, two = fleet.enrolled("cam-1", "cam-2")
    two.disconnect()
    service = fleet.service
    quick = ConfigureOrder(settings={"telemetry.window_s": 5.0})
    assert all(item.changes for item in service.plan_configuration(quick, who="ann"))
    assert view(fleet, "cam-1").status == "none"
    assert one.configurations == []
    service.configure(quick, who="ann")
    assert newest(one, 1) == {"telemetry.window_s": 5.0}
    loud = ConfigureOrder(devices=["cam-1"], settings={"log.level": "debug"})
    (told,) = service.configure(loud, who="ann")
    assert told.after == {"log.level": "debug", "telemetry.window_s": 5.0}
    assert newest(one, 2) == told.after
    (again,) = service.configure(loud, who="ann")
    assert not again.changes
    quiet = ConfigureOrder(devices=["cam-1"], unset=["telemetry.window_s"])
    service.configure(quiet, who="ann")
    assert newest(one, 3) == {"log.level": "debug"}
    two.connect()
    assert newest(two, 1) == {"telemetry.window_s": 5.0}
    assert len({c.nonce for d in (one, two) for c in d.configurations}) == 4
    lines = [line.text for line in service.log(kind="device", subject="cam-1")]
    assert "cam-1: wanted by ann: telemetry.window_s unset" in lines


def test_wanted_and_has_are_told_apart(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    order = ConfigureOrder(line="digits", settings={"link.budget_mb_per_day": 5.0})
    fleet.service.configure(order, who="ann")
    assert view(fleet, "cam-1").status == "waiting"
    limit = {"settings": {"link.budget_mb_per_day": 1.0}}
    limit |= {"settings_limited": ["link.budget_mb_per_day"]}
    device.say_state(more={"config_epoch": 1, "config_seq": 1, **limit})
    wait_until(lambda: view(fleet, "cam-1").status == "applied")
    assert view(fleet, "cam-1").wanted == {"link.budget_mb_per_day": 5.0}
    assert view(fleet, "cam-1").has == {"link.budget_mb_per_day": 1.0}
    assert view(fleet, "cam-1").limited == ["link.budget_mb_per_day"]
    device.say_state(more={"config_refused": "its owner forbids it"})
    wait_until(lambda: view(fleet, "cam-1").status == "refused")
    assert view(fleet, "cam-1").reason == "its owner forbids it"
    again = ConfigureOrder(line="digits", settings={"link.budget_mb_per_day": 2.0})
    fleet.service.configure(again, who="ann")
    assert view(fleet, "cam-1").status == "waiting", "the refusal was of the wish before"
    assert view(fleet, "cam-1").reason == ""
    device.say_state()
    wait_until(lambda: view(fleet, "cam-1").status == "refused")


def test_numbers_are_above_what_the_device_reports(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    device.say_state(more={"config_epoch": 1, "config_seq": 41, "settings": {"log.level": "info"}})
    wait_until(lambda: view(fleet, "cam-1").has)
    fleet.service.configure(ConfigureOrder(settings={"log.level": "debug"}), who="ann")
    assert newest(device, 42) == {"log.level": "debug"}


def test_what_gets_old_is_signed_anew(fleet: FleetUnderTest) -> None:
    (device,) = fleet.enrolled("cam-1")
    fleet.service.configure(ConfigureOrder(settings={"log.level": "debug"}), who="ann")
    first = newest(device, 1)
    manager = fleet.manager
    assert manager is not None
    half_s = 46 * 86_400.0

    def renew(later_s: float = half_s) -> list[int]:
        return manager.transact(
            lambda turn: [
                row.seq for row in manager.configurations.renew_due(turn.tx, turn.now_s + later_s)
            ]
        )

    assert manager.do(renew) == [2]
    assert view(fleet, "cam-1").wanted == first
    # A store from a backup does not know what came after, and must not undo it by a signature.
    device.say_state(more={"config_epoch": 1, "config_seq": 5, "settings": {"log.level": "info"}})
    wait_until(lambda: view(fleet, "cam-1").has == {"log.level": "info"})
    assert manager.do(lambda: renew(2 * half_s)) == []


def test_a_device_that_is_removed_leaves_no_wish_behind(fleet: FleetUnderTest) -> None:
    fleet.enrolled("cam-1")
    fleet.service.configure(ConfigureOrder(settings={"log.level": "debug"}), who="ann")
    fleet.service.remove_device("cam-1", who="ann")
    (again,) = fleet.enrolled("cam-1")
    assert view(fleet, "cam-1").wanted == {}
    assert again.configurations == []


def test_nobody_and_strangers_cannot_be_configured(fleet: FleetUnderTest) -> None:
    order = ConfigureOrder(devices=["cam-9"], settings={"log.level": "debug"})
    for chosen in (order, ConfigureOrder(line="faces", settings={"log.level": "debug"})):
        with pytest.raises(FleetError) as caught:
            fleet.service.configure(chosen, who="ann")
        assert caught.value.exit_code is ExitCode.NOT_FOUND
