"""What the device says about itself: builds every message and spools what must not be lost."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Literal

from edge_agent.clock import SystemClock
from edge_agent.config import DeviceSection
from edge_agent.drift.events import Commissioned, DeploymentGap, DriftAlarm, DriftEvent, Recovered
from edge_agent.infer.recorder import SketchClosed, WindowClosed
from edge_agent.refusal import Refusal
from edge_agent.telemetry.spool import Spool
from edge_agent.update.order import Order
from edge_contract import __version__
from edge_contract.codec import encode_json, encode_msgpack
from edge_contract.messages import (
    AgentState,
    DriftWindow,
    Enrol,
    Event,
    Online,
    Phase,
    UpdateStatus,
)
from edge_contract.telemetry import TelemetrySummary
from edge_contract.topics import EVERYONE, topic

AGENT_VERSION = __version__

log = logging.getLogger("edge_agent")


class Reports:
    """Builds messages in the name of this device.

    Args:
        device: who it is.
        fingerprint, public: its key.
        spool: takes status, events, telemetry and drift.
        clock: the device's clocks.
        facts: the fields of ``AgentState`` that the rest of the agent knows, asked anew each time.
    """

    def __init__(
        self,
        device: DeviceSection,
        *,
        fingerprint: str,
        public: bytes,
        spool: Spool,
        clock: SystemClock,
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        self._device = device
        self._fingerprint = fingerprint
        self._public = public
        self._spool = spool
        self._clock = clock
        self._facts = facts
        self._state_seq = 0
        self.last_status = b""
        """The payload of the status message that was spooled last."""

    def topic(self, cls: str, name: str) -> str:
        """A topic of this device."""
        return topic(self._device.fleet, self._device.id, cls, name)

    def online(self, connection_id: str, *, online: bool) -> tuple[str, bytes]:
        """``state/online``, or the will of a connection."""
        body = Online(
            ts=self._clock.wall_s(),
            seq=self._next_state_seq(),
            boot_id=self._spool.boot_id,
            model_version="",
            connection_id=connection_id,
            online=online,
        )
        return self.topic("state", "online"), encode_json(body)

    def enrol(self) -> tuple[str, bytes]:
        """The announcement of this device's key."""
        device = self._device
        body = Enrol(
            device=device.id,
            hardware=device.hardware,
            line=device.line,
            public=self._public.hex(),
            agent_version=AGENT_VERSION,
        )
        return topic(device.fleet, EVERYONE, "enroll", device.id), encode_json(body)

    def state(self, connection_id: str) -> tuple[str, bytes]:
        """``state/agent``: what the device is and runs now."""
        stats = self._spool.stats()
        body = AgentState(
            ts=self._clock.wall_s(),
            seq=self._next_state_seq(),
            boot_id=self._spool.boot_id,
            connection_id=connection_id,
            agent_version=AGENT_VERSION,
            hardware=self._device.hardware,
            device_key=self._fingerprint,
            line=self._device.line,
            spool_used_bytes=stats.used_bytes,
            spool_dropped_count=stats.dropped_count,
            **self._facts(),
        )
        return self.topic("state", "agent"), encode_json(body)

    def status(
        self,
        phase: Phase,
        *,
        rollout: str,
        desired_seq: int,
        digest: str,
        version: str,
        reason: str = "",
        progress_percent: float = 0.0,
    ) -> None:
        """Spool one step of an update, durably."""
        ts = self._clock.wall_s()
        model_version = str(self._facts()["model_version"])

        def payload(seq: int) -> bytes:
            self.last_status = encode_json(
                UpdateStatus(
                    ts=ts,
                    seq=seq,
                    boot_id=self._spool.boot_id,
                    model_version=model_version,
                    rollout=rollout,
                    desired_seq=desired_seq,
                    digest=digest,
                    version=version,
                    phase=phase,
                    reason=reason[:2000],
                    progress_percent=progress_percent,
                )
            )
            return self.last_status

        self._spool.append("status", payload, durable=True)

    def refused(self, refusal: Refusal) -> None:
        """Spool that an order was refused; what it claims to be is only named."""
        claimed = refusal.claimed
        if claimed is None:
            self.event("order-refused", "warning", refusal.reason)
            return
        self.status(
            "refused",
            rollout=claimed.rollout,
            desired_seq=claimed.seq,
            digest=claimed.manifest_digest,
            version=claimed.version,
            reason=refusal.reason,
        )

    def event(
        self,
        name: str,
        severity: Literal["info", "warning", "alarm"],
        text: str,
        *,
        ts: float | None = None,
        model_version: str | None = None,
        detail: dict[str, Any] | None = None,
    ) -> None:
        """Spool one event, durably."""
        when = self._clock.wall_s() if ts is None else ts
        running = str(self._facts()["model_version"]) if model_version is None else model_version

        def payload(seq: int) -> bytes:
            return encode_json(
                Event(
                    ts=when,
                    seq=seq,
                    boot_id=self._spool.boot_id,
                    model_version=running,
                    name=name,
                    severity=severity,
                    text=text[:2000],
                    detail=detail or {},
                )
            )

        self._spool.append("event", payload, durable=True)

    def telemetry(self, window: WindowClosed) -> None:
        """Spool one telemetry window."""
        stats = self._spool.stats()

        def payload(seq: int) -> bytes:
            return encode_json(
                TelemetrySummary(
                    ts=window.ts,
                    seq=seq,
                    seq_first=seq,
                    boot_id=self._spool.boot_id,
                    model_version=window.model_version,
                    spool_used_bytes=stats.used_bytes,
                    spool_dropped_count=stats.dropped_count,
                    **window.fields,
                )
            )

        self._spool.append("telemetry", payload)

    def sketch(self, window: SketchClosed) -> None:
        """Spool one drift window."""

        def payload(seq: int) -> bytes:
            return encode_msgpack(
                DriftWindow(
                    schema=1,
                    ts=window.ts,
                    seq_first=seq,
                    seq=seq,
                    boot_id=self._spool.boot_id,
                    model_version=window.model_version,
                    window_s=window.window_s,
                    sketch=window.sketch.encode(),
                )
            )

        self._spool.append("drift", payload)

    def drift(self, found: DriftEvent, *, ts: float, model_version: str, sample_hz: float) -> None:
        """Spool what the drift monitor found as an event; an alarm tells when the change began."""
        name, severity, text, detail = drift_words(found)
        if isinstance(found, DriftAlarm):
            detail["onset_ts"] = ts - found.onset_samples_ago / sample_hz
        self.event(name, severity, text, ts=ts, model_version=model_version, detail=detail)

    def _next_state_seq(self) -> int:
        self._state_seq += 1
        return self._state_seq


class UpdateReports:
    """The update's ``StatusSink``: spools every step and lets the loop hear it.

    Args:
        reports: spools.
        hear: called with every step.
    """

    def __init__(self, reports: Reports, hear: Callable[[Order, Phase, str], None]) -> None:
        self._reports = reports
        self._hear = hear

    def report(self, order: Order, phase: Phase, reason: str) -> None:
        """One step, for the fleet."""
        self._reports.status(
            phase,
            rollout=order.rollout,
            desired_seq=order.seq,
            digest=order.digest,
            version=order.version,
            reason=reason,
        )
        self._hear(order, phase, reason)

    def alarm(self, text: str) -> None:
        """A sentence for a person: here, and at the fleet."""
        log.warning("update: %s", text)
        self._reports.event("update-alarm", "warning", text)


def printable(text: str) -> str:
    """A sentence of somebody else's (a hook's, a refusal's), fit for the state: one line, short."""
    return "".join(c if c.isprintable() else " " for c in text[:500])


def drift_words(
    found: DriftEvent,
) -> tuple[str, Literal["info", "warning", "alarm"], str, dict[str, Any]]:
    """Name, severity, sentence and figures of a drift finding."""
    if isinstance(found, Commissioned):
        weak = f"; {' '.join(found.warnings)}" if found.warnings else ""
        text = f"drift reference of this device counted on {found.n} samples{weak}"
        return "drift-commissioned", "info", text, {"samples_count": found.n}
    if isinstance(found, DeploymentGap):
        worst = ", ".join(f"{name} {found.psi[name]:.2f}" for name in found.worst)
        text = f"what this device sees differs from the compiler's data most in (PSI): {worst}"
        detail = {f"psi_{name}": value for name, value in found.psi.items()}
        return "drift-deployment-gap", "info", text, detail
    if isinstance(found, DriftAlarm):
        names = [name for name, share in found.features if share >= 0.05] or [found.features[0][0]]
        text = f"drift: {', '.join(names)} left this device's own reference"
        return (
            "drift-alarm",
            "alarm",
            text,
            {
                "features": names,
                "score_log": found.score_log,
                "samples_since_reset": found.samples_since_reset,
                "onset_samples_ago": found.onset_samples_ago,
                "repeats_count": found.repeats,
            },
        )
    assert isinstance(found, Recovered)
    text = f"no drift for {found.samples} samples after an alarm"
    return "drift-recovered", "info", text, {"samples_count": found.samples}
