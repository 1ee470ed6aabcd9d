"""What an update waits for, and that it says so."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from msgspec.structs import replace

from edge_agent.update.events import Ordered
from edge_agent.update.order import Order, Origin
from edge_agent.update.readiness import (
    Conditions,
    DeviceReadiness,
    SteadyClock,
    UpdatePolicy,
    Wait,
    hottest_c,
    next_opening_ts,
    opens_in_s,
    why_not_now,
)
from edge_agent.update.state import Stage
from edge_contract.errors import ContractError
from edge_contract.window import is_open
from tests.update.device import Clock, Device
from tests.update.fleet import FLEET, V1, V2, give

NOON_S = 1_700_000_000 // 86400 * 86400 + 12 * 3600
GOOD = Conditions(free_bytes=10**9, temperature_c=40.0, present_s=NOON_S)
ORDER = V2.order(2)


class Weather:
    """A device's conditions, as a test wants them."""

    def __init__(self) -> None:
        self.why = ""
        self.needed: list[int] = []

    def wait(self, order: Order, needed_bytes: int) -> Wait | None:
        self.needed.append(needed_bytes)
        return Wait(self.why) if self.why else None


def windowed(window: str, origin: Origin = "fleet") -> Order:
    return Order(
        epoch=1, seq=1, digest=V1.digest, line="digits", version="1", window=window, origin=origin
    )


@pytest.mark.parametrize(
    ("policy", "order", "found", "says"),
    [
        (UpdatePolicy(), ORDER, GOOD, ""),
        (UpdatePolicy(), ORDER, Conditions(10**6, 40.0, NOON_S), "1.0 MB are free, 21.0 MB"),
        (UpdatePolicy(), ORDER, Conditions(10**9, 91.0, NOON_S), "91 °C, the limit is 85 °C"),
        (UpdatePolicy(), ORDER, Conditions(10**9, None, None), ""),
        (UpdatePolicy(window="11:00-13:00"), ORDER, GOOD, ""),
        (UpdatePolicy(window="22:00-04:00"), ORDER, GOOD, "the device's window is 22:00-04:00"),
        (UpdatePolicy(window="11:00-13:00"), windowed("01:00-02:00"), GOOD, "the order's window"),
        (UpdatePolicy(), windowed("01:00-02:00", "file"), GOOD, ""),
        (
            UpdatePolicy(window="11:00-13:00"),
            ORDER,
            Conditions(10**9, 40.0, None),
            "the clock is not known to be right",
        ),
    ],
)
def test_what_is_not_ready_is_said(
    policy: UpdatePolicy, order: Order, found: Conditions, says: str
) -> None:
    why = why_not_now(policy, order, found, 5_000_000)
    assert says in why
    assert bool(why) == bool(says)


@pytest.mark.parametrize(
    ("own", "ordered", "present_s", "opens_h"),
    [
        ("", "", NOON_S, None),
        ("", "11:00-13:00", NOON_S, None),
        ("", "02:00-05:00", NOON_S, 26),
        ("14:00-15:00", "", NOON_S, 14),
        ("22:00-04:00", "02:00-05:00", NOON_S, 26),
        ("22:00-01:00", "02:00-05:00", NOON_S, None),
        ("", "02:00-05:00", None, None),
    ],
)
def test_the_next_opening_is_that_of_both_windows(
    own: str, ordered: str, present_s: float | None, opens_h: int | None
) -> None:
    found_s = next_opening_ts(UpdatePolicy(window=own), windowed(ordered), present_s)
    assert found_s == (NOON_S + (opens_h - 12) * 3600 if opens_h else 0.0)
    assert next_opening_ts(UpdatePolicy(window=own), windowed(ordered, "file"), present_s) == 0.0
    in_s = opens_in_s(UpdatePolicy(window=own), windowed(ordered), present_s)
    assert in_s == (opens_h - 12) * 3600 if opens_h else in_s == math.inf


@pytest.mark.parametrize(
    ("window", "hour", "expected"),
    [
        ("", 3, True),
        ("22:00-04:00", 23, True),
        ("22:00-04:00", 3.99, True),
        ("22:00-04:00", 4, False),
        ("22:00-04:00", 12, False),
        ("09:30-10:00", 9.5, True),
        ("09:30-10:00", 10, False),
    ],
)
def test_a_window_may_pass_midnight_and_ends_before_its_end(
    window: str, hour: float, expected: bool
) -> None:
    assert is_open(window, NOON_S - 12 * 3600 + hour * 3600) is expected


@pytest.mark.parametrize("text", ["always", "25:00-01:00", "1:00-2:00", "01:00-01:00", "01:00-"])
def test_a_malformed_window_is_refused_and_never_reads_as_always(text: str) -> None:
    with pytest.raises(ContractError):
        UpdatePolicy(window=text)


@pytest.mark.parametrize("wrong", [{"temperature_max_c": 0.0}, {"space_reserve_mb": float("nan")}])
def test_a_malformed_limit_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ContractError):
        UpdatePolicy(**wrong)  # type: ignore[arg-type]


def test_a_clock_that_was_just_set_opens_no_window() -> None:
    wall, monotonic = [NOON_S], [100.0]
    clock = SteadyClock(lambda: wall[0], lambda: monotonic[0])
    assert clock.present_s() == NOON_S
    wall[0] += 3 * 3600
    monotonic[0] += 60
    assert clock.present_s() is None
    wall[0] += 60
    monotonic[0] += 60
    assert clock.present_s() == wall[0]


def test_the_hottest_zone_counts_and_a_silent_one_says_nothing(tmp_path: Path) -> None:
    for number, text in enumerate(("41000\n", "72500\n", "\n")):
        zone = tmp_path / f"thermal_zone{number}"
        zone.mkdir()
        (zone / "temp").write_text(text)
    assert hottest_c(tmp_path) == 72.5
    assert hottest_c(tmp_path / "nothing") is None
    ready = DeviceReadiness(
        UpdatePolicy(temperature_max_c=70), tmp_path, lambda: None, lambda: 0.0, tmp_path
    )
    assert ready.wait(ORDER, 0) == Wait("the device is at 72 °C, the limit is 70 °C")
    full = ready.wait(ORDER, 10**18)
    assert full is not None
    assert "space for two" in full.why


@pytest.mark.parametrize("stage", [Stage.PRE_INSTALL, Stage.POST_INSTALL])
def test_an_update_waits_with_a_reason_and_goes_on_when_the_device_is_ready(
    tmp_path: Path, stage: Stage
) -> None:
    weather = Weather()
    device = Device(tmp_path, FLEET, Clock(), readiness=weather).boot()
    give(device, V1, 1).settle()
    device.told.clear()
    device.manager.handle(Ordered(V2.order(2)))
    before = {Stage.PRE_INSTALL: Stage.FETCHING, Stage.POST_INSTALL: Stage.SELF_TEST}[stage]
    device.settle(until=before)
    weather.why = "the device is at 91 °C"
    device.settle(until=stage)
    for _ in range(150):
        device.second()
    assert device.manager.state.stage is stage
    assert device.manager.status()["waits_for"] == "the device is at 91 °C"
    assert device.running == V1.digest
    assert not device.pending, "no hook is asked meanwhile"
    weather.why = ""
    device.settle()
    assert device.running == V2.digest
    assert device.manager.status()["waits_for"] == ""
    assert max(weather.needed) > 1000, "the size of the version is what it needs"


def test_waiting_ends_with_the_orders_deadline_and_the_fleet_hears_why(tmp_path: Path) -> None:
    weather = Weather()
    device = Device(tmp_path, FLEET, Clock(), readiness=weather).boot()
    give(device, V1, 1).settle()
    weather.why = "the device's window is 22:00-04:00 UTC"
    give(device, V2, 2, deadline_ts=device.clock.wall_s() + 300).settle()
    assert device.phases(2)[-1] == "failed"
    assert "deadline passed" in device.reason(2)
    assert "22:00-04:00" in device.reason(2)
    assert device.running == V1.digest


def test_a_newer_order_wins_over_one_that_waits(tmp_path: Path) -> None:
    weather = Weather()
    weather.why = "too hot"
    device = Device(tmp_path, FLEET, Clock(), readiness=weather).boot()
    give(device, V1, 1).settle(until=Stage.PRE_INSTALL)
    give(device, V2, 2).settle(until=Stage.PRE_INSTALL)
    assert device.phases(1)[-1] == "failed"
    weather.why = ""
    device.settle()
    assert device.running == V2.digest


@pytest.mark.parametrize("late_s", [0.0, 0.1, 29.9, 59.9])
def test_a_window_of_one_minute_is_met_whenever_the_wait_began(
    tmp_path: Path, late_s: float
) -> None:
    """Two looks are a minute and a tick apart: one could be just before it, the next just after."""
    clock = Clock()
    clock.now_s = NOON_S - 1.7e9 - 3600 + late_s
    policy = UpdatePolicy(window="12:00-12:01", space_reserve_mb=0.0)
    ready = DeviceReadiness(policy, tmp_path, clock.wall_s, clock.monotonic_s, tmp_path / "none")
    device = Device(tmp_path, FLEET, clock, readiness=ready).boot()
    give(device, V1, 1).settle(until=Stage.PRE_INSTALL)
    while clock.wall_s() < NOON_S - 1:
        device.second()
    assert device.manager.state.stage is Stage.PRE_INSTALL
    for _ in range(4):
        clock.now_s += 0.25
        device.manager.tick(clock.now_s, clock.wall_s())
        while device.pump():
            pass
    device.settle(until=Stage.TRIAL)
    assert clock.wall_s() < NOON_S + 3


def test_an_order_signed_anew_brings_its_own_window(tmp_path: Path) -> None:
    class Windows:
        def wait(self, order: Order, needed_bytes: int) -> Wait | None:
            return Wait(f"the order's window is {order.window} UTC") if order.window else None

    device = Device(tmp_path, FLEET, Clock(), readiness=Windows()).boot()
    windowed_order = replace(V1.order(1), window="01:00-02:00")
    device.manager.handle(Ordered(windowed_order))
    device.settle(until=Stage.PRE_INSTALL)
    give(device, V1, 2).settle()
    assert device.running == V1.digest, "what waited asks under the newer order"
    assert device.phases(2)[-1] == "committed"


def test_a_hook_that_says_later_shows_its_reason_in_status(tmp_path: Path) -> None:
    device = Device(tmp_path, FLEET, Clock(), {"pre-fetch": "later"}).boot()
    give(device, V1, 1)
    while device.pump():
        pass
    assert device.manager.state.stage is Stage.PRE_FETCH
    assert device.manager.status()["waits_for"] == "hook pre-fetch says later"
    assert device.fetched == []
    device.answers.clear()
    device.settle()
    assert device.running == V1.digest
