"""A device as people and programs see it: as a row, and with its recent past."""

from __future__ import annotations

from typing import Literal

import msgspec

from fleet.manager.configuration_view import ConfigurationView
from fleet.views.drift import DriftAlarm

DeviceState = Literal["never_seen", "online", "offline", "updating", "held", "revoked"]

TelemetryValue = float | int | str | bool | None | list[int]


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device as a row.

    state: what a fleet bar shows: ``never_seen``, ``online``, ``offline``, ``updating`` (an update
        is under way, online or not), ``held`` (its owner said "no updates for now") or ``revoked``
        (its key counts no more; whatever it says is refused).
    desired_version, desired_digest: what it is ordered to run; "" where nothing was ordered yet.
    clock_skew_s: the device's clock minus the manager's when its last state came, None before.
    alarms_count: drift alarms received for the version that it runs now.
    window_s, frames_count, errors_count, latency_p50_ms, latency_p95_ms: of its newest telemetry
        summary; 0 or None before the first.
    configuration: what the fleet wants of its settings, and what it has.
    """

    device: str
    state: DeviceState
    online: bool
    hardware: str
    line: str
    version: str
    digest: str
    fallback_digest: str
    slot: str
    update_phase: str
    held: bool
    desired_version: str
    desired_digest: str
    desired_seq: int
    rollout: str
    agent_version: str
    enrolled_at_s: float
    last_seen_at_s: float
    clock_skew_s: float | None
    spool_used_bytes: int
    spool_dropped_count: int
    window_s: float
    frames_count: int
    latency_p50_ms: float | None
    latency_p95_ms: float | None
    errors_count: int
    alarms_count: int
    configuration: ConfigurationView


class TelemetryPoint(msgspec.Struct, frozen=True, kw_only=True):
    """One telemetry summary as the device sent it: its flat fields by name, units in the names."""

    ts: float
    seq_first: int
    seq: int
    boot_id: str
    model_version: str
    fields: dict[str, TelemetryValue]


class DeviceEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One event or update step of a device, newest first wherever several are given."""

    kind: Literal["event", "status"]
    ts: float
    received_at_s: float
    name: str
    severity: Literal["info", "warning", "alarm"]
    text: str
    model_version: str


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """Something that ingest refused, counted per device, kind and message class."""

    device: str
    kind: str
    cls: str
    count: int
    first_at_s: float
    last_at_s: float
    detail: str


class DeviceDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One device with its recent past.

    committed: per class, how many sequence numbers are committed at the fleet, all boots together.
    duplicates_count: records that came again and were acknowledged again, never stored twice.
    """

    device: DeviceView
    key_fingerprint: str
    connection_id: str
    committed: dict[str, int]
    duplicates_count: int
    telemetry: list[TelemetryPoint]
    events: list[DeviceEvent]
    alarms: list[DriftAlarm]
    findings: list[Finding]
