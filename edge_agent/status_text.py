"""What ``edge-agent status`` prints for people."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

_ON_TRIAL = ("trial", "health", "committing")
"""Stages of an update in which the new version answers frames, and is not committed yet."""


def status_lines(status: dict[str, Any]) -> list[str]:
    """The agent's own status (``status.full_status``) as a few aligned lines."""
    update = status["update"]
    inference = status["inference"]
    spool = status["spool"]
    link = status["link"]
    lines = [
        ("device", f"{status['fleet']}/{status['device']}  {status['hardware']}"),
        ("runs", _version(status)),
        ("inference", _inference(inference)),
        ("link", _link(link)),
        (
            "spool",
            (
                f"{spool['waiting_records_count']} records wait, {spool['used_bytes'] / 1e6:.1f} of"
                f" {spool['cap_bytes'] / 1e6:.0f} MB, {spool['dropped_count']} dropped"
            ),
        ),
        ("update", _update(update, status["update_opens_ts"])),
    ]
    if status["budget"]["metered"]:
        lines.append(("budget", _budget(status["budget"], update)))
    lines += zip(("settings", *[""] * 99), _settings(status), strict=False)
    if status["config_refused"]:
        lines.append(("", f"refused: {status['config_refused']}"))
    if status["last_refusal"]:
        lines.append(("refused", status["last_refusal"]))
    return [f"{name:<10} {text}" for name, text in lines]


def _version(status: dict[str, Any]) -> str:
    if status["update"]["stage"] in _ON_TRIAL:
        # The active slot is the other one, until the commit.
        kept = f"; slot {status['active_slot']} keeps what ran before"
        on_trial = f"{status['line']} {status['model_version']} on trial"
        return on_trial + (kept if status["active_digest"] else "")
    if not status["active_digest"]:
        return "nothing yet"
    return (
        f"{status['line']} {status['model_version']} in slot {status['active_slot']}"
        f"  {status['active_digest'][:19]}…"
    )


def _link(link: dict[str, Any]) -> str:
    if not link["up"]:
        return f"offline: {link['reason'] or 'not configured'}"
    return f"online, but refused: {link['refused']}" if link.get("refused") else "online"


def _budget(budget: dict[str, Any], update: dict[str, Any]) -> str:
    waiting = [*budget["waiting"], *(["model"] if update["waits_for_budget"] else [])]
    waits = f"; {', '.join(waiting)} wait" if waiting else ""
    damaged = "; its count was damaged and taken as spent" if budget["count_was_damaged"] else ""
    return (
        f"{budget['spent_bytes'] / 1e6:.2f} of {budget['limit_bytes_per_day'] / 1e6:g} MB in 24"
        f" hours of running{waits}{damaged}"
    )


def _settings(status: dict[str, Any]) -> list[str]:
    number = f"{status['config_epoch']}.{status['config_seq']}"
    rows = []
    for row in status["configuration"]:
        origin = f"fleet, configuration {number}" if row["from"] == "fleet" else row["from"]
        if row["wanted"] is not None and row["from"] != "fleet":
            origin += f" {row['wanted']}"
        rows.append(f"{row['name']} {row['value']} ({origin})")
    return rows


def _inference(inference: dict[str, Any]) -> str:
    runs_on = f"{inference['runs_on']}: " if inference.get("runs_on") else ""
    if not inference["answered_count"]:
        return f"{runs_on}no frame answered yet"
    p95_ms = inference["latency_p95_ms"]
    return (
        f"{runs_on}{inference['answered_count']} frames answered,"
        f" p95 {'-' if p95_ms is None else f'{p95_ms:.2f}'} ms,"
        f" {inference['frames_dropped_count']} dropped"
    )


def _update(update: dict[str, Any], opens_ts: float) -> str:
    held = "held; " if update["held"] else ""
    if update["stage"] == "idle":
        return held + "none under way"
    order = update["order"] or {"version": "?"}
    waits = f"; waits: {update['waits_for']}" if update["waits_for"] else ""
    if waits and opens_ts:
        opens = datetime.fromtimestamp(opens_ts, timezone.utc)
        waits += f", open from {opens:%Y-%m-%d %H:%M}"
    progress = f"({update['progress_percent']:.0f} %)"
    return f"{held}{update['stage']} {order['version']} {progress}{waits}"
