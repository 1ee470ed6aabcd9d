"""The overview: is the fleet well, what is under way, who needs a look."""

from __future__ import annotations

from collections import Counter

from fleet.console import words
from fleet.console.charts import state_bar
from fleet.console.page import Page, Place
from fleet.service import FleetService
from fleet.views.device import DeviceView
from fleet.views.manager import HealthView
from fleet.views.rollout import RolloutView

STALE_S = 300.0
"""A device that said nothing for so long is stale, connected or not."""
_AT_REST = frozenset({"draft", "aborted", "completed", "rolled_back"})
_ALARMS_MAX = 6
_LOG_MAX = 12


def overview_page(service: FleetService, place: Place) -> Page:
    """``/``."""
    health = service.health()
    devices = service.devices()
    rollouts = service.rollouts()
    states: Counter[str] = Counter(device.state for device in devices)
    running = Counter((device.line, device.version or "") for device in devices if device.digest)
    alarmed = [device for device in devices if device.alarms_count]
    stale = sorted(
        (device for device in devices if is_stale(device, health.now_s)),
        key=lambda device: device.last_seen_at_s,
    )
    return Page(
        template="overview.html",
        title="Overview",
        section="overview",
        says=_sentence(devices, rollouts, alarmed, health),
        values={
            "now": health.now_s,
            "health": health,
            "reminders": health.reminders,
            "sentence": _sentence(devices, rollouts, alarmed, health),
            "device_count": len(devices),
            "bar": state_bar((words.DEVICE[state], states[state]) for state in words.DEVICE),
            "running": sorted(running.items(), key=lambda item: (-item[1], item[0])),
            "rollouts": shown_rollouts(rollouts),
            "alarms": [
                alarm
                for device in alarmed[:_ALARMS_MAX]
                for alarm in service.device(device.device).alarms[:1]
            ],
            "alarmed_count": len(alarmed),
            "stale": stale,
            "log": service.log(limit=_LOG_MAX),
        },
    )


def is_stale(device: DeviceView, now_s: float) -> bool:
    """Offline, or silent for ``STALE_S``."""
    return not device.online or now_s - device.last_seen_at_s > STALE_S


def shown_rollouts(rollouts: list[RolloutView]) -> list[RolloutView]:
    """The newest of each line, which is the only one that can still move."""
    lines: set[str] = set()
    newest = []
    for rollout in rollouts:
        if rollout.line not in lines:
            newest.append(rollout)
        lines.add(rollout.line)
    return sorted(newest, key=lambda rollout: rollout.status in _AT_REST)


def _sentence(
    devices: list[DeviceView],
    rollouts: list[RolloutView],
    alarmed: list[DeviceView],
    health: HealthView,
) -> str:
    online = sum(device.online for device in devices)
    if not devices:
        parts = ["No device has enrolled yet"]
    elif online == len(devices):
        parts = [f"All {words.count(online, 'device')} online" if online > 1 else "1 device online"]
    else:
        parts = [f"{online} of {words.count(len(devices), 'device')} online"]
    active = [rollout for rollout in rollouts if rollout.status not in _AT_REST]
    parts += [f"{r.version} {words.ROLLOUT[r.status].label}" for r in active[:2]]
    if alarmed:
        parts.append(f"{words.count(len(alarmed), 'device')} with a drift alarm")
    if not health.connected:
        parts.append("No connection to the broker")
    return ". ".join(parts) + "."
