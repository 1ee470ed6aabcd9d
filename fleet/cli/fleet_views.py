"""``edge-fleet devices`` and ``edge-fleet drift``."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from urllib.parse import quote

import click

from fleet.cli.terminal import emit, json_option, state_option, table
from fleet.manager.state_dir import StateDir


@click.command()
@click.argument("device", default="")
@state_option
@json_option
def devices(device: str, state: StateDir, as_json: bool) -> None:
    """List every enrolled device, or show all about DEVICE."""
    from fleet.cli.api_client import ApiClient

    api = ApiClient(state)
    if device:
        detail = api.get(f"devices/{quote(device, safe='')}")
        emit(detail, _device_text(detail), as_json=as_json)
        return
    rows = api.get("devices")
    emit(rows, _devices_text(rows), as_json=as_json)


@click.command()
@click.argument("device", default="")
@state_option
@json_option
def drift(device: str, state: StateDir, as_json: bool) -> None:
    """Show drift alarms, and each feature's distance from the bundle's reference."""
    from fleet.cli.api_client import ApiClient

    rows = ApiClient(state).get("drift", device=device)
    emit(rows, "\n".join(map(_drift_text, rows)) or _NO_DRIFT, as_json=as_json)


_NO_DRIFT = "no device has said what it runs yet; next: edge-fleet devices"


def _devices_text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no device has enrolled yet; next: edge-agent run --config FILE on a device"
    head = ("device", "state", "hardware", "line", "version", "ordered", "p95 ms", "alarms", "seen")
    return table(
        head,
        [
            (
                row["device"],
                row["state"] + ("" if row["online"] or row["state"] == "offline" else ", offline"),
                row["hardware"],
                row["line"],
                row["version"] or "-",
                row["desired_version"] or "-",
                _ms(row["latency_p95_ms"]),
                str(row["alarms_count"]),
                _when(row["last_seen_at_s"]),
            )
            for row in rows
        ],
    )


def _device_text(detail: dict[str, Any]) -> str:
    device = detail["device"]
    facts = {
        "device": f"{device['device']} ({device['hardware']}, {device['state']})",
        "runs": f"{device['line']} {device['version'] or '(nothing)'} in slot {device['slot']}",
        "ordered": device["desired_version"] or "(nothing)",
        "update": device["update_phase"] or "none",
        "key": detail["key_fingerprint"],
        "committed": ", ".join(f"{n} {cls}" for cls, n in sorted(detail["committed"].items())),
        "repeats": str(detail["duplicates_count"]),
    }
    lines = [f"{name + ':':11}{value}" for name, value in facts.items()]
    lines += [f"alarm:     {_when(a['ts'])} {a['text']}" for a in detail["alarms"][:5]]
    lines += [
        f"finding:   {f['count']} x {f['kind']} ({f['cls']}): {f['detail']}"
        for f in detail["findings"]
    ]
    lines += [f"{_when(e['ts'])} {e['name']}: {e['text']}" for e in reversed(detail["events"][:10])]
    return "\n".join(lines)


def _drift_text(row: dict[str, Any]) -> str:
    lines = [
        f"{row['device']} on {row['line']} {row['version']}:"
        f" {row['samples']} samples in {row['windows']} windows"
        + (f" ({row['problem']})" if row["problem"] else "")
    ]
    lines += [
        f"  alarm {_when(a['ts'])}: {a['text']}"
        + (f" (began {_when(a['onset_ts'])})" if a["onset_ts"] else "")
        for a in row["alarms"]
    ]
    worst = sorted(row["features"], key=lambda feature: -feature["psi"])
    lines += [
        f"  {f['feature']:24} PSI {f['psi']:6.3f}  KS {f['ks']:5.3f}  {f['verdict']}" for f in worst
    ]
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s).astimezone().strftime("%Y-%m-%d %H:%M:%S")
