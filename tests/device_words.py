"""What a device says, with everything filled in that a test or a benchmark does not care for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge_contract.messages import AgentState
from edge_contract.telemetry import LatencyHistogram, TelemetrySummary


def said_state(**facts: Any) -> AgentState:
    """``state/agent`` of a device at rest on slot ``a``; ``facts`` say who, when and otherwise."""
    at_rest = {
        "agent_version": "0.1.0",
        "active_digest": "",
        "fallback_digest": "",
        "active_slot": "a",
        "update_phase": "",
        "desired_epoch": 1,
        "desired_seq": 0,
        "held": False,
        "spool_used_bytes": 0,
        "spool_dropped_count": 0,
    }
    return AgentState(**{**at_rest, **facts})


def said_summary(latencies_ms: Sequence[float] = (1.0, 2.0, 3.0), **facts: Any) -> TelemetrySummary:
    """``telemetry/summary`` of a window without any trouble, ``seq_first`` its ``seq``."""
    histogram = LatencyHistogram()
    for latency_ms in latencies_ms:
        histogram.observe(latency_ms)
    without_trouble = {
        "seq_first": facts["seq"],
        "window_s": 10.0,
        "frames_count": len(latencies_ms),
        "frames_dropped_count": 0,
        "errors_count": 0,
        "rejected_count": 0,
        "memory_rss_mb": 50.0,
        "spool_used_bytes": 0,
        "spool_dropped_count": 0,
        "offline": False,
    }
    return TelemetrySummary(**{**without_trouble, **histogram.summary_fields(), **facts})
