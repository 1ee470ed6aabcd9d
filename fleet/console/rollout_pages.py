"""The list of rollouts, and one rollout."""

from __future__ import annotations

from fleet.console import words
from fleet.console.charts import state_bar
from fleet.console.overview import shown_rollouts
from fleet.console.page import Page, Place, cut
from fleet.manager.rollout_order import command_line
from fleet.service import FleetService, RolloutOrder
from fleet.views.rollout import RolloutDetail, RolloutDevice, RolloutView

_URGENCY = ("bad", "busy", "held", "warn", "off", "ok")
"""Which devices come first in the table."""


def rollouts_page(service: FleetService, place: Place) -> Page:
    """``/rollouts``."""
    rollouts = service.rollouts()
    newest = shown_rollouts(rollouts)
    return Page(
        template="rollouts.html",
        title="Rollouts",
        section="rollouts",
        says=". ".join(f"{rollout.id}: {rollout.sentence}" for rollout in newest[:2]),
        values={
            "now": service.health().now_s,
            "cut": cut(rollouts, _rollout_text, place.query.get("q", "")),
            "q": place.query.get("q", ""),
            "versions": [] if rollouts else service.versions(),
        },
    )


def rollout_page(service: FleetService, place: Place) -> Page:
    """``/rollouts/{rollout}``."""
    detail = service.rollout(place.path["rollout"])
    rollout = detail.rollout
    look = words.rollout_look(rollout.status, rollout.outcome)
    devices = sorted(
        detail.devices, key=lambda device: _URGENCY.index(words.PHASE[shown_phase(device)].tone)
    )
    return Page(
        template="rollout.html",
        title=rollout.id,
        section="rollouts",
        says=f"Rollout {rollout.id} is {look.label}. {rollout.sentence}",
        dialogs="rollout_dialogs.html",
        values={
            "now": service.health().now_s,
            "detail": detail,
            "rollout": rollout,
            "look": look,
            "bar": state_bar(
                (look, detail.phases.get(phase, 0)) for phase, look in words.PHASE.items()
            ),
            "cut": cut(devices, _device_text, place.query.get("q", "")),
            "q": place.query.get("q", ""),
            "shown_phase": shown_phase,
            "left_count": left_count(rollout),
            "command": again_command(detail),
        },
    )


def shown_phase(device: RolloutDevice) -> str:
    """The device's phase, or ``offline`` for one that is gone before it had a result."""
    unfinished = words.PHASE[device.phase].tone in ("busy", "held") or device.phase == "pending"
    return "offline" if unfinished and not device.online else device.phase


def left_count(rollout: RolloutView) -> int:
    """Devices that nobody has asked yet."""
    return sum(wave.waiting for wave in rollout.waves)


def again_command(detail: RolloutDetail) -> str:
    """The command line that would start the same waves under the same gates."""
    rollout = detail.rollout
    counts = [wave.device_count for wave in rollout.waves]
    order = RolloutOrder(
        line=rollout.line,
        version=rollout.version,
        counts=counts[:-1] or counts,
        gate=detail.gate,
        health=detail.health,
        on_abort=detail.on_abort,
        window=rollout.window,
    )
    return command_line(order)


def _rollout_text(rollout: RolloutView) -> str:
    return f"{rollout.id} {rollout.line} {rollout.version} {rollout.status} {rollout.sentence}"


def _device_text(device: RolloutDevice) -> str:
    label = words.PHASE[shown_phase(device)].label
    why = device.waits_for or device.reason
    return f"{device.device} {device.hardware} {label} {why} wave {device.wave}"
