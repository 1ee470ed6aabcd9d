"""Rows of devices as people see them."""

from __future__ import annotations

from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ExitCode
from edge_contract.messages import AgentState
from edge_contract.signing import fingerprint
from edge_contract.telemetry import TelemetrySummary, decode_summary
from fleet.errors import FleetError
from fleet.manager.configuration_view import configuration_view
from fleet.store import devices, identity, journal, orders, records
from fleet.store.configurations import ConfigurationRow, all_configurations, get_configuration
from fleet.store.devices import DeviceRow
from fleet.store.orders import OrderRow
from fleet.telemetry import queries
from fleet.views.device import DeviceDetail, DeviceState, DeviceView, Finding
from fleet.views.drift import DriftAlarm

_TELEMETRY_MAX = 200
_EVENTS_MAX = 100
_AT_REST = frozenset({"", "idle"})
"""``AgentState.update_phase`` of a device with nothing under way. Every other stage of the agent's
machine, and one that a newer agent may have, is a part of an update."""


def all_devices(tx: Connection) -> list[DeviceView]:
    """Every device, by id."""
    current = {order.device: order for order in orders.current_orders(tx)}
    wanted = all_configurations(tx)
    revoked = identity.all_revoked_keys(tx)
    alarms: dict[str, list[DriftAlarm]] = {}
    for alarm in queries.drift_alarms(tx):
        alarms.setdefault(alarm.device, []).append(alarm)
    return [
        _view(
            row,
            current.get(row.device),
            alarms.get(row.device, []),
            wanted.get(row.device),
            row.public_key in revoked,
        )
        for row in devices.list_devices(tx)
    ]


def one_device(tx: Connection, device: str) -> DeviceDetail:
    """One device with its recent past.

    Raises:
        FleetError: it never enrolled.
    """
    row = require_device(tx, device)
    alarms = queries.drift_alarms(tx, device)
    return DeviceDetail(
        device=_view(
            row,
            orders.current_order(tx, device),
            alarms,
            get_configuration(tx, device),
            row.public_key in identity.all_revoked_keys(tx),
        ),
        key_fingerprint=fingerprint(bytes.fromhex(row.public_key)),
        connection_id=row.connection_id,
        committed=records.committed_counts(tx, device),
        duplicates_count=records.duplicates_of(tx, device),
        telemetry=queries.telemetry_points(tx, device, _TELEMETRY_MAX),
        events=queries.device_events(tx, device, _EVENTS_MAX),
        alarms=alarms,
        findings=findings(tx, device),
    )


def require_device(tx: Connection, device: str) -> DeviceRow:
    """The row of a device.

    Raises:
        FleetError: it never enrolled.
    """
    row = devices.get_device(tx, device)
    if row is None:
        raise FleetError(
            f"no device {device!r} is enrolled",
            hint="edge-fleet devices",
            exit_code=ExitCode.NOT_FOUND,
        )
    return row


def findings(tx: Connection, device: str = "") -> list[Finding]:
    """What ingest refused, latest first."""
    return [
        Finding(
            device=row.device,
            kind=row.kind,
            cls=row.cls,
            count=row.copies,
            first_at_s=row.first_at_s,
            last_at_s=row.last_at_s,
            detail=row.detail,
        )
        for row in journal.read_findings(tx, device)
    ]


def drift_subject(row: DeviceRow) -> queries.DriftSubject:
    """The device on the version that it says it runs."""
    state = last_state(row)
    return queries.DriftSubject(
        device=row.device,
        line=row.line,
        version=state.model_version if state else "",
        digest=state.active_digest if state else "",
        online=row.online,
    )


def last_state(row: DeviceRow) -> AgentState | None:
    """The newest ``state/agent`` of a device."""
    if row.state is None:
        return None
    return decode_json(row.state, AgentState, what=f"stored state of {row.device}")


def _view(
    row: DeviceRow,
    order: OrderRow | None,
    alarms: list[DriftAlarm],
    wanted: ConfigurationRow | None,
    revoked: bool,
) -> DeviceView:
    state = last_state(row)
    telemetry = _telemetry(row)
    version = state.model_version if state else ""
    return DeviceView(
        device=row.device,
        state="revoked" if revoked else _state_word(row, state),
        online=row.online,
        hardware=row.hardware,
        line=row.line,
        version=version,
        digest=state.active_digest if state else "",
        fallback_digest=state.fallback_digest if state else "",
        slot=state.active_slot if state else "",
        update_phase=state.update_phase if state else "",
        held=state.held if state else False,
        desired_version=order.version if order else "",
        desired_digest=order.digest if order else "",
        desired_seq=row.desired_seq,
        rollout=order.rollout if order else "",
        agent_version=row.agent_version,
        enrolled_at_s=row.enrolled_at_s,
        last_seen_at_s=row.last_seen_at_s,
        clock_skew_s=state.ts - row.state_at_s if state and row.state_at_s else None,
        spool_used_bytes=state.spool_used_bytes if state else 0,
        spool_dropped_count=state.spool_dropped_count if state else 0,
        window_s=telemetry.window_s if telemetry else 0.0,
        frames_count=telemetry.frames_count if telemetry else 0,
        latency_p50_ms=telemetry.infer_latency_p50_ms if telemetry else None,
        latency_p95_ms=telemetry.infer_latency_p95_ms if telemetry else None,
        errors_count=telemetry.errors_count if telemetry else 0,
        alarms_count=sum(alarm.model_version == version for alarm in alarms),
        configuration=configuration_view(wanted, state, row.state_at_s or 0.0),
    )


def _state_word(row: DeviceRow, state: AgentState | None) -> DeviceState:
    if state is None:
        return "online" if row.online else "never_seen"
    if state.held:
        return "held"
    if state.update_phase not in _AT_REST:
        return "updating"
    return "online" if row.online else "offline"


def _telemetry(row: DeviceRow) -> TelemetrySummary | None:
    return decode_summary(row.telemetry) if row.telemetry is not None else None
