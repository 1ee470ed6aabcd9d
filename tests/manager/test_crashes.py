"""Processes killed for real: whatever instant it hits, nothing is lost, nothing is done twice."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlalchemy import select

from fleet.service import RolloutOrder
from fleet.store import schema
from tests.manager.conftest import FleetUnderTest
from tests.manager.simulated_device import SimulatedDevice, wait_until

ROOT = Path(__file__).parents[2]


def run_dying(fleet: FleetUnderTest, moment: str, *rollout: str) -> subprocess.Popen[str]:
    """Start a manager that kills itself; returns once it is connected."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.manager.dying_manager", *_arguments(fleet, moment), *rollout],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    return process


def _arguments(fleet: FleetUnderTest, moment: str) -> list[str]:
    return [str(fleet.directory / "state"), str(fleet.port), moment]


def expect_death(process: subprocess.Popen[str]) -> None:
    assert process.wait(10) == -signal.SIGKILL
    assert process.stdout is not None
    process.stdout.close()


def stored_numbers(fleet: FleetUnderTest, device: SimulatedDevice) -> list[int]:
    store = fleet.open_store()
    with store.read() as tx:
        rows = tx.execute(
            select(schema.records.c.seq_first, schema.records.c.seq).where(
                schema.records.c.device == device.name, schema.records.c.cls == "telemetry"
            )
        )
        found = [n for first, last in rows for n in range(first, last + 1)]
    store.close()
    return found


@pytest.mark.parametrize("moment", ["before the commit", "after the commit"])
def test_a_manager_killed_around_its_commit_loses_and_doubles_nothing(
    make_fleet: Callable[[str], FleetUnderTest], moment: str
) -> None:
    fleet = make_fleet("mosquitto")
    fleet.start_manager()
    (device,) = fleet.enrolled("cam-1")
    fleet.stop_manager()
    process = run_dying(fleet, moment)
    for _ in range(40):
        device.say_telemetry()
    expect_death(process)
    assert device.unacknowledged, "the manager died before it acknowledged"
    committed_before = stored_numbers(fleet, device)
    assert bool(committed_before) == (moment == "after the commit")

    fleet.start_manager()
    device.resend()
    wait_until(lambda: not device.unacknowledged, what="for acks")
    assert sorted(stored_numbers(fleet, device)) == list(range(1, 41))
    repeats = fleet.service.device("cam-1").duplicates_count
    assert repeats == len(committed_before)


@pytest.mark.parametrize("moment", ["after the effects", "after the order"])
def test_a_manager_killed_between_decision_and_publish_orders_once(
    make_fleet: Callable[[str], FleetUnderTest], moment: str
) -> None:
    fleet = make_fleet("mosquitto")
    fleet.publish("1.0.0")
    fleet.start_manager()
    devices = fleet.enrolled("cam-1", "cam-2")
    fleet.stop_manager()
    expect_death(run_dying(fleet, moment, "digits", "1.0.0"))
    assert not any(device.desired for device in devices), "it died before it published"
    store = fleet.open_store()
    with store.read() as tx:
        waiting = len(tx.execute(select(schema.outbox)).all())
        orders = len(tx.execute(select(schema.orders)).all())
    store.close()
    assert (waiting, orders) == ((1, 0) if moment == "after the effects" else (0, 1))

    fleet.start_manager()
    first = wait_until(lambda: next((d for d in devices if d.desired), None), what="for an order")
    assert first.order().seq == 1
    other = next(device for device in devices if device is not first)
    first.install(first.order())
    assert other.order().seq == 1
    numbers = Counter((d.name, o.seq) for d in devices for o in d.desired if o)
    assert set(numbers) == {("cam-1", 1), ("cam-2", 1)}


@pytest.mark.parametrize("kind", ["mosquitto", "embedded"])
def test_a_broker_that_died_is_whole_again_after(
    make_fleet: Callable[[str], FleetUnderTest], kind: str
) -> None:
    fleet = make_fleet(kind)
    fleet.publish("1.0.0")
    fleet.start_manager()
    devices = fleet.enrolled("cam-1", "cam-2")
    service = fleet.service
    service.start_rollout(RolloutOrder(line="digits", version="1.0.0", shares=[1.0]), who="ann")
    for device in devices:
        device.order()
    os.kill(fleet.broker.pid, signal.SIGKILL)
    fleet.broker.wait(5)
    wait_until(lambda: not service.health().connected, what="for the loss to be noticed")
    # A new broker with nothing in its memory, as rumqttd's always is.
    for path in (fleet.directory / "broker").iterdir():
        path.unlink()
    fleet.broker = fleet.start_broker()
    wait_until(lambda: service.health().connected, what="for the manager to be back")
    late = fleet.device("cam-3")
    wait_until(lambda: late.metadata, what="for the metadata")
    fresh = SimulatedDevice("cam-1", fleet.port, fleet.director)
    fresh.key, fresh.boot_id = devices[0].key, "another-boot"
    devices[0]._client.disconnect()
    fleet.devices.append(fresh)
    fresh.connect()
    assert fresh.order().seq == 1
    devices[1].say_telemetry()
    wait_until(lambda: not devices[1].unacknowledged, what="for the ack", timeout_s=15)
    assert service.health().reconnects_count == 1
