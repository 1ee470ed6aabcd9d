"""What the stored records say, as views: telemetry points, events, alarms, merged drift windows."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection

from edge_contract.codec import decode_json, decode_msgpack
from edge_contract.messages import DriftWindow, Event, UpdateStatus
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch
from fleet.drift.compare import compare
from fleet.store import records
from fleet.store.records import RecordRow
from fleet.telemetry.record import TS_MAX_S
from fleet.views.device import DeviceEvent, TelemetryPoint
from fleet.views.drift import DriftAlarm, DriftView, FeatureDrift

DRIFT_SAMPLES = 1000
"""Newest samples that are compared with the reference: enough to tell a moderate shift from
chance at 32 bins (``fleet.drift.compare.psi_by_chance``), few enough to show today's."""
_DRIFT_WINDOWS = 500
_HEADER = frozenset({"schema", "ts", "seq_first", "seq", "boot_id", "model_version"})


def telemetry_points(tx: Connection, device: str, limit: int) -> list[TelemetryPoint]:
    """The newest summaries of a device, oldest first."""
    rows = records.recent_records(tx, device, ["telemetry"], limit)
    return [telemetry_point(row) for row in reversed(rows)]


def telemetry_point(row: RecordRow) -> TelemetryPoint:
    """One stored summary with its flat fields by name."""
    fields: dict[str, Any] = msgspec.json.decode(row.payload)
    return TelemetryPoint(
        ts=row.ts,
        seq_first=row.seq_first,
        seq=row.seq,
        boot_id=row.boot_id,
        model_version=row.model_version,
        fields={name: value for name, value in fields.items() if name not in _HEADER},
    )


def device_events(tx: Connection, device: str, limit: int) -> list[DeviceEvent]:
    """The newest events and update steps of a device, newest first."""
    rows = records.recent_records(tx, device, ["event", "status"], limit)
    return [_event_view(row) for row in rows]


def drift_alarms(tx: Connection, device: str = "", limit: int = 1000) -> list[DriftAlarm]:
    """The newest drift alarms of one device or ("") of all, newest first."""
    rows = records.alarm_records(tx, device, limit)
    return [drift_alarm(row) for row in rows if is_drift_alarm(row)]


def is_drift_alarm(row: RecordRow) -> bool:
    """Whether the record is an event named ``drift…`` of severity ``alarm``."""
    return row.cls == "event" and row.severity == "alarm" and row.name.startswith("drift")


def drift_alarm(row: RecordRow) -> DriftAlarm:
    """A stored drift alarm. Its onset is the event's detail ``onset_ts``."""
    event = decode_json(row.payload, Event, what="stored event")
    onset = event.detail.get("onset_ts")
    features = event.detail.get("features")
    return DriftAlarm(
        device=row.device,
        name=row.name,
        ts=row.ts,
        onset_ts=float(onset) if isinstance(onset, float) and abs(onset) <= TS_MAX_S else None,
        received_at_s=row.received_at_s,
        text=event.text,
        model_version=row.model_version,
        boot_id=row.boot_id,
        seq=row.seq,
        features=[str(name) for name in features] if isinstance(features, list) else [],
        detail=event.detail,
    )


class DriftSubject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose drift is asked for: a device on the version that it runs now."""

    device: str
    line: str
    version: str
    digest: str
    online: bool


def drift_view(
    tx: Connection, subject: DriftSubject, reference: DriftReference | None
) -> DriftView:
    """Merge the newest windows of the version that the device runs and compare them."""
    alarms = [a for a in drift_alarms(tx, subject.device) if a.model_version == subject.version]
    rows = [
        row
        for row in records.recent_records(tx, subject.device, ["drift"], _DRIFT_WINDOWS)
        if row.model_version == subject.version
    ]
    merged: DriftSketch | None = None
    used: list[RecordRow] = []
    for row in rows:
        window = decode_msgpack(row.payload, DriftWindow, what="stored drift window")
        sketch = DriftSketch.decode(window.sketch)
        if reference is None or sketch.edges_digest != reference.edges_digest:
            continue
        merged = sketch if merged is None else merged.merge(sketch)
        used.append(row)
        if merged.n >= DRIFT_SAMPLES:
            break
    problem = ""
    features: list[FeatureDrift] = []
    if reference is None:
        problem = "the bundle has no drift reference here"
    elif merged is None:
        problem = "no drift window on this reference yet" if not rows else "other bin edges"
    else:
        features = _features(reference, merged)
    return DriftView(
        device=subject.device,
        line=subject.line,
        version=subject.version,
        digest=subject.digest,
        online=subject.online,
        alarms=alarms,
        samples=merged.n if merged else 0,
        windows=len(used),
        from_ts=used[-1].ts if used else None,
        to_ts=used[0].ts if used else None,
        features=features,
        problem=problem,
    )


def _features(reference: DriftReference, sketch: DriftSketch) -> list[FeatureDrift]:
    numeric = len(reference.features)
    return [
        FeatureDrift(
            feature=result.name,
            psi=result.psi,
            psi_by_chance=result.psi_by_chance,
            ks=result.ks,
            verdict=result.verdict.value,
            edges=list(reference.edges[index]) if index < numeric else [],
            class_ids=[] if index < numeric else list(reference.class_ids),
            reference=list(reference.counts[index]),
            observed=list(sketch.features[index].counts),
            nan_count=sketch.features[index].nan_count,
        )
        for index, result in enumerate(compare(reference, sketch).features)
    ]


def _event_view(row: RecordRow) -> DeviceEvent:
    if row.cls == "status":
        status = decode_json(row.payload, UpdateStatus, what="stored status")
        bad = status.phase in ("failed", "rolled_back", "refused")
        return DeviceEvent(
            kind="status",
            ts=row.ts,
            received_at_s=row.received_at_s,
            name=status.phase,
            severity="warning" if bad else "info",
            text=f"{status.version}: {status.reason}" if status.reason else status.version,
            model_version=row.model_version,
        )
    event = decode_json(row.payload, Event, what="stored event")
    return DeviceEvent(
        kind="event",
        ts=row.ts,
        received_at_s=row.received_at_s,
        name=row.name,
        severity=event.severity,
        text=event.text,
        model_version=row.model_version,
    )
