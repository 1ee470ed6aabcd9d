"""Whether the device is ready for the next step of an update: space, temperature, time of day.

Asked before the spare slot is written and before the new version is switched in. What is not ready
waits, with a sentence that status shows, until it is, or until the stage's or the order's deadline.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec.structs import replace

from edge_agent.update.order import Order
from edge_contract.errors import ContractError
from edge_contract.window import check_window, is_open, opens_at_s

THERMAL = Path("/sys/class/thermal")
JUMP_S = 120.0
"""The wall clock and the monotonic one may part by so much between two looks (a leap, a slew)."""


class UpdatePolicy(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The device's own conditions, ``[update]`` of the configuration.

    window: ``HH:MM-HH:MM`` in UTC, "" for always. An order may bring one as well; both must be
        open. Where the clock is not known to be right, a window counts as shut.
    temperature_max_c: hottest thermal zone at which an update may begin.
    space_reserve_mb: must stay free once two versions lie side by side.
    """

    window: str = ""
    temperature_max_c: float = 85.0
    space_reserve_mb: float = 16.0

    def __post_init__(self) -> None:
        check_window(self.window, what="update.window")
        if not (math.isfinite(self.temperature_max_c) and 0 < self.temperature_max_c <= 150):
            raise ContractError(
                "update.temperature_max_c: expected degrees Celsius above 0 to 150, got"
                f" {self.temperature_max_c}"
            )
        if not (math.isfinite(self.space_reserve_mb) and 0 <= self.space_reserve_mb <= 1e6):
            raise ContractError(
                f"update.space_reserve_mb: expected 0 to 1000000, got {self.space_reserve_mb}"
            )


class Conditions(msgspec.Struct, frozen=True):
    """What was found. ``None`` where the device cannot tell.

    free_bytes: on the state directory's file system.
    present_s: unix seconds, only where the clock is known to be right.
    """

    free_bytes: int
    temperature_c: float | None
    present_s: float | None


def why_not_now(policy: UpdatePolicy, order: Order, found: Conditions, needed_bytes: int) -> str:
    """Why the update has to wait, as a sentence; "" where it may go on. Pure."""
    least_bytes = needed_bytes + int(policy.space_reserve_mb * 1e6)
    if found.free_bytes < least_bytes:
        return (
            f"space for two versions: {found.free_bytes / 1e6:.1f} MB are free,"
            f" {least_bytes / 1e6:.1f} MB are needed"
        )
    hot_c = found.temperature_c
    if hot_c is not None and hot_c > policy.temperature_max_c:
        return f"the device is at {hot_c:.0f} °C, the limit is {policy.temperature_max_c:.0f} °C"
    if order.origin == "file":
        return ""  # its owner stands beside the device, and knows what time it is
    for whose, window in (("device's", policy.window), ("order's", order.window)):
        if not window:
            continue
        if found.present_s is None:
            return f"the {whose} window is {window} UTC, and the clock is not known to be right"
        if not is_open(window, found.present_s):
            return f"the {whose} window is {window} UTC"
    return ""


def next_opening_ts(policy: UpdatePolicy, order: Order | None, present_s: float | None) -> float:
    """When the windows of device and order are both open next (unix s). Pure.

    0 where both are open now, where they never are together, and where the time is not known.
    """
    if order is None or order.origin == "file" or present_s is None:
        return 0.0
    opens_s = opens_at_s((policy.window, order.window), present_s)
    return opens_s if opens_s is not None and opens_s > present_s else 0.0


def opens_in_s(policy: UpdatePolicy, order: Order, present_s: float | None) -> float:
    """Seconds until the windows of device and order are both open; ``inf`` where they are open
    now, where they never are together, and where the time is not known. Pure."""
    opens_ts = next_opening_ts(policy, order, present_s)
    return opens_ts - present_s if opens_ts and present_s is not None else math.inf


class Wait(msgspec.Struct, frozen=True):
    """An update cannot go on: why, and in how many seconds its windows open (``inf``: it is not
    known, or the windows are not what it waits for)."""

    why: str
    opens_in_s: float = math.inf


class Readiness(Protocol):
    """What the update manager asks before a step."""

    def wait(self, order: Order, needed_bytes: int) -> Wait | None:
        """What ``order`` has to wait for; None where it may go on."""
        ...


class DeviceReadiness:
    """Looks at this device.

    Args:
        policy: its own conditions.
        state_dir: where the slots lie.
        present_s: unix seconds where the clock is known to be right, else None.
        monotonic_s: seconds that never go back.
        thermal: the kernel's thermal zones.
    """

    def __init__(
        self,
        policy: UpdatePolicy,
        state_dir: Path,
        present_s: Callable[[], float | None],
        monotonic_s: Callable[[], float],
        thermal: Path = THERMAL,
    ) -> None:
        self._policy = policy
        self.temperature_max_c = policy.temperature_max_c
        """May be set lower than the policy's while the agent runs."""
        self._state_dir = state_dir
        self._steady = SteadyClock(present_s, monotonic_s)
        self._thermal = thermal

    def wait(self, order: Order, needed_bytes: int) -> Wait | None:
        """What ``order`` has to wait for; None where it may go on.

        Raises:
            OSError: the state directory cannot be looked at.
        """
        disk = os.statvfs(self._state_dir)
        found = Conditions(
            free_bytes=disk.f_bavail * disk.f_frsize,
            temperature_c=hottest_c(self._thermal),
            present_s=self._steady.present_s(),
        )
        policy = replace(self._policy, temperature_max_c=self.temperature_max_c)
        why = why_not_now(policy, order, found, needed_bytes)
        return Wait(why, opens_in_s(policy, order, found.present_s)) if why else None


class SteadyClock:
    """The present, but for the first look after the wall clock jumped against the monotonic one.

    A window must not open because somebody set the clock forward for a moment: the time after a
    jump counts from the second look on, when it has gone on in step with the monotonic clock.
    """

    def __init__(
        self, present_s: Callable[[], float | None], monotonic_s: Callable[[], float]
    ) -> None:
        self._present_s = present_s
        self._monotonic_s = monotonic_s
        self._offset_s: float | None = None

    def present_s(self) -> float | None:
        """Unix seconds; None where they are not known to be right."""
        present_s = self._present_s()
        if present_s is None:
            self._offset_s = None
            return None
        offset_s, before_s = present_s - self._monotonic_s(), self._offset_s
        self._offset_s = offset_s
        jumped = before_s is not None and abs(offset_s - before_s) > JUMP_S
        return None if jumped else present_s


def hottest_c(thermal: Path = THERMAL) -> float | None:
    """The hottest thermal zone in degrees Celsius; None where the board has none."""
    found = []
    for zone in thermal.glob("thermal_zone*/temp"):
        try:
            found.append(int(zone.read_text()) / 1000)
        except (OSError, ValueError):
            # A zone that is switched off, or answers nothing sensible, says nothing.
            continue
    return max(found, default=None)
