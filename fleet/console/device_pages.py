"""The list of devices, and one device."""

from __future__ import annotations

import json
from collections import Counter
from statistics import median
from typing import NamedTuple

from fleet.console import words
from fleet.console.overview import STALE_S, is_stale
from fleet.console.page import Page, Place, cut
from fleet.service import FleetService
from fleet.views.device import DeviceDetail, DeviceView, TelemetryPoint


class _Chart(NamedTuple):
    """series: JSON for the browser; text: the same in short, for those who do not see it."""

    name: str
    series: str
    text: str
    names: list[str]


def devices_page(service: FleetService, place: Place) -> Page:
    """``/devices``."""
    devices = service.devices()
    now_s = service.health().now_s
    state = place.query.get("state", "")
    groups: Counter[str] = Counter(device.state for device in devices)
    groups["drift"] = sum(device.alarms_count > 0 for device in devices)
    groups["stale"] = sum(is_stale(device, now_s) for device in devices)
    chosen = [device for device in devices if _belongs(device, state, now_s)]
    return Page(
        template="devices.html",
        title="Devices",
        section="devices",
        # A device that is being updated is online as well.
        says=f"{words.count(len(devices), 'device')}, {sum(d.online for d in devices)} online.",
        values={
            "now": now_s,
            "stale_s": STALE_S,
            "cut": cut(chosen, _device_text, place.query.get("q", "")),
            "q": place.query.get("q", ""),
            "state": state,
            "device_count": len(devices),
            "groups": groups,
        },
    )


def device_page(service: FleetService, place: Place) -> Page:
    """``/devices/{device}``."""
    detail = service.device(place.path["device"])
    device = detail.device
    versions = {item.digest: item.version for item in service.versions()}
    return Page(
        template="device.html",
        title=device.device,
        section="devices",
        says=_sentence(device),
        values={
            "now": service.health().now_s,
            "detail": detail,
            "device": device,
            "slots": slots(device, versions),
            "updates": [event for event in detail.events if event.kind == "status"],
            "events": [event for event in detail.events if event.kind == "event"],
            "latency": _latency_chart(detail),
            "frames": _frames_chart(detail),
        },
    )


class Slot(NamedTuple):
    """One of a device's two slots, as the page shows it; ``runs``: its model answers frames."""

    name: str
    look: words.Look
    version: str
    digest: str
    runs: bool = False


def slots(device: DeviceView, versions: dict[str, str]) -> tuple[Slot, Slot]:
    """Slot A and slot B.

    During a trial the *other* slot runs: the device's active one is what it returns to if the
    trial fails, and the version that it says it runs is the one on trial.

    Args:
        device: as it was last heard.
        versions: digest -> version of what is published.
    """
    active, other = ("B", "A") if device.slot.upper() == "B" else ("A", "B")
    if device.update_phase == "trial":
        digest = device.desired_digest if device.desired_version == device.version else ""
        if not device.digest:
            active, other = other, active
        back = words.SLOT["back" if device.digest else "by"]
        both = (
            Slot(active, back, versions.get(device.digest, ""), device.digest),
            Slot(other, words.SLOT["trial"], device.version, digest, runs=True),
        )
    else:
        runs = bool(device.digest)
        fallback = device.fallback_digest
        both = (
            Slot(active, words.SLOT["runs" if runs else "by"], device.version, device.digest, runs),
            Slot(other, words.SLOT["by"], versions.get(fallback, ""), fallback),
        )
    return both if active == "A" else (both[1], both[0])


def _belongs(device: DeviceView, state: str, now_s: float) -> bool:
    if state == "drift":
        return device.alarms_count > 0
    if state == "stale":
        return is_stale(device, now_s)
    return not state or device.state == state


def _device_text(device: DeviceView) -> str:
    label = words.DEVICE[device.state].label
    return f"{device.device} {label} {device.hardware} {device.line} {device.version}"


def _sentence(device: DeviceView) -> str:
    runs = f", runs {device.line} {device.version}" if device.version else ""
    update = f", update {device.update_phase}" if device.state == "updating" else ""
    alarms = f", {words.count(device.alarms_count, 'drift alarm')}" if device.alarms_count else ""
    return f"{device.device} is {words.DEVICE[device.state].label}{runs}{update}{alarms}."


def _latency_chart(detail: DeviceDetail) -> _Chart:
    p95 = [_field(point, "infer_latency_p95_ms") for point in detail.telemetry]
    p50 = [_field(point, "infer_latency_p50_ms") for point in detail.telemetry]
    return _chart(detail, "Latency of inference", "ms", {"p95": p95, "p50": p50})


def _frames_chart(detail: DeviceDetail) -> _Chart:
    rates = []
    for point in detail.telemetry:
        frames, window_s = _field(point, "frames_count"), _field(point, "window_s")
        rates.append(frames / window_s if frames is not None and window_s else None)
    return _chart(detail, "Frames per second", "/s", {"frames": rates})


def _chart(
    detail: DeviceDetail, name: str, unit: str, series: dict[str, list[float | None]]
) -> _Chart:
    times = [point.ts for point in detail.telemetry]
    first = next(iter(series))
    known = [value for value in series[first] if value is not None]
    if not known:
        return _Chart(name, "", "no telemetry yet", [])
    text = (
        f"{first}: newest {words.figure(known[-1])}, median {words.figure(median(known))}, "
        f"highest {words.figure(max(known))} {unit} over {words.span(times[-1] - times[0])}"
    )
    if len(known) < 2:
        return _Chart(name, "", f"{first}: {words.figure(known[0])} {unit} in the only window", [])
    data = {"unit": unit, "names": list(series), "data": [times, *series.values()]}
    return _Chart(name, json.dumps(data), text, list(series))


def _field(point: TelemetryPoint, name: str) -> float | None:
    value = point.fields.get(name)
    return float(value) if isinstance(value, int | float) else None
