"""What the agent says of itself to its owner: ``edge-agent status``, and systemd's one line."""

from __future__ import annotations

from typing import Any

from edge_agent.parts import Parts
from edge_agent.reports import AGENT_VERSION


def full_status(parts: Parts) -> dict[str, Any]:
    """All that ``edge-agent status`` shows."""
    stats = parts.spool.stats()
    device = parts.config.device
    puller = parts.fetcher.puller
    return {
        "fleet": device.fleet,
        "device": device.id,
        "hardware": device.hardware,
        "line": device.line,
        "agent_version": AGENT_VERSION,
        "device_key": parts.identity.fingerprint if parts.identity else "",
        **parts.facts(),
        "inference": {
            "runs_on": model.session.runs_on if (model := parts.engine.model) else "",
            "answered_count": parts.engine.answered_count,
            "frames_dropped_count": parts.engine.frames_dropped_count,
            "latency_p95_ms": parts.recorder.latency_p95_ms,
        },
        "link": {
            "up": parts.fleet.up,
            "reason": parts.key_trouble or parts.fleet.down_reason,
            "refused": parts.fleet.refused_reason,
            "deaf": parts.fleet.deaf_reason,
            "records_refused_count": parts.fleet.records_refused_count,
        },
        "spool": {
            "waiting_records_count": sum(c.records for c in stats.classes.values()),
            "used_bytes": stats.used_bytes,
            "cap_bytes": stats.cap_bytes,
            "dropped_count": stats.dropped_count,
        },
        "update": {
            **parts.update.status(),
            "progress_percent": puller.progress.percent,
            "goodput_bytes_s": puller.goodput_bytes_s,
            "waits_for_budget": puller.waits_for_budget,
        },
        "budget": parts.budget.status(),
        "configuration": parts.remote.status(),
        "last_refusal": parts.desk.last_refusal,
    }


def sentence(parts: Parts) -> str:
    """One line for ``systemctl status``."""
    model = parts.engine.model
    runs = f"runs {model.manifest.name} {model.version}" if model else "has no model yet"
    link = "online" if parts.fleet.up else "offline"
    kept = "; keeps nothing, its disk takes no write" if parts.state_dir.read_only else ""
    return f"{runs}, {link}, {parts.engine.answered_count} frames answered{kept}"
