"""What the service tells people and programs: the result types of ``fleet.service``.

All are frozen msgspec structs: ``msgspec.to_builtins`` (or ``msgspec.json.encode``) gives what the
HTTP API returns and what ``--json`` prints. Times are unix seconds of the manager's clock unless a
field says otherwise; shares are 0..1; an empty text means "none".
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.health import HealthSpec
from fleet.manager.configuration_view import ConfigurationView
from fleet.rollout.gate import Gate

Pressed = Literal["pause", "resume", "abort", "rollback", "promote", "exclude"]
"""What an operator can do with a rollout that was started."""

DeviceState = Literal["never_seen", "online", "offline", "updating", "held"]
TelemetryValue = float | int | str | bool | None | list[int]


class DriftAlarm(msgspec.Struct, frozen=True, kw_only=True):
    """An alarm that a device raised about its own input.

    onset_ts: the device's estimate of when the change began, unix seconds of its clock.
    seq: of the event in the device's class ``event`` within ``boot_id``.
    """

    device: str
    name: str
    ts: float
    onset_ts: float | None
    received_at_s: float
    text: str
    model_version: str
    boot_id: str
    seq: int
    features: list[str]
    detail: dict[str, str | float | list[str | float]]


class DeviceView(msgspec.Struct, frozen=True, kw_only=True):
    """One device as a row.

    state: what a fleet bar shows: ``never_seen``, ``online``, ``offline``, ``updating`` (an update
        is under way, online or not) or ``held`` (its owner said "no updates for now").
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


class WaveView(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of a rollout. Every device of it is in exactly one of the counts.

    state: ``closed`` (nobody asked yet), ``open`` (the one being judged), ``passed``.
    """

    wave: int
    """Counted from 1."""
    state: Literal["closed", "open", "passed"]
    device_count: int
    waiting: int
    in_flight: int
    offline: int
    held: int
    committed: int
    failed: int
    set_aside: int
    returning: int
    out: int
    failures_limit: int
    successes_needed: int


class RolloutView(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as a row.

    status: ``draft``, ``running``, ``paused``, ``aborted``, ``completed``, ``rolling_back``,
        ``rolled_back``.
    outcome: ``""`` while undecided, ``pass``, ``fail``, ``insufficient``, ``rolled_back``.
    sentence: why it stands where it stands, for people.
    wave: number of the open wave, 0 before the start.
    window: hours (UTC) in which devices may install, "" for always.
    opens_at_s: when the window opens next; None while it is open, and where there is none.
    commands: what an operator may do now, out of ``Pressed``.
    """

    id: str
    line: str
    version: str
    digest: str
    from_versions: list[str]
    status: str
    outcome: str
    sentence: str
    wave: int
    window: str
    opens_at_s: float | None
    waves: list[WaveView]
    device_count: int
    committed_count: int
    failed_count: int
    created_at_s: float
    created_by: str
    updated_at_s: float
    commands: list[Pressed]


class RolloutDevice(msgspec.Struct, frozen=True, kw_only=True):
    """One device in one rollout. ``phase`` is one of ``fleet.rollout.state.Phase``.

    waits_for: what its update waits for, in the device's words, as it said last.
    opens_at_s: when the windows, the rollout's and its own, are both open next; None where it waits
        for no window, or does not know the time.
    """

    device: str
    hardware: str
    wave: int
    phase: str
    reached: str
    online: bool
    digest_from: str
    version_from: str
    reason: str
    seq: int
    waits_for: str
    opens_at_s: float | None


class FailureGroup(msgspec.Struct, frozen=True, kw_only=True):
    """Devices that failed alike."""

    wave: int
    hardware: str
    step: str
    reason: str
    devices: list[str]


class IneligibleDevice(msgspec.Struct, frozen=True, kw_only=True):
    """A device that the rollout does not touch, and why."""

    device: str
    hardware: str
    why: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the persistent log: of rollouts, devices, the repository and operators."""

    id: int
    at_s: float
    kind: Literal["rollout", "device", "drift", "finding", "repository", "audit"]
    subject: str
    """The rollout's id, the device's id or the line's name."""
    severity: Literal["info", "warning", "alarm"]
    text: str


class RolloutDetail(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout with its devices, failures and log (oldest line first).

    phases: the device-state bar: how many devices stand in which phase; unfinished ones that are
        gone count as ``offline``, and those that it does not touch as ``ineligible``.
    """

    rollout: RolloutView
    phases: dict[str, int]
    devices: list[RolloutDevice]
    ineligible: list[IneligibleDevice]
    failures: list[FailureGroup]
    log: list[LogLine]
    gate: Gate
    health: HealthSpec
    on_abort: Literal["halt", "return"]


class PlannedWave(msgspec.Struct, frozen=True, kw_only=True):
    """One wave of a plan before it runs.

    failure_rate_upper: what no failure in the whole wave still leaves open (one-sided 95 %).
    """

    wave: int
    devices: list[str]
    device_count: int
    share_cumulative: float
    hardware: dict[str, int]
    offline_count: int
    failures_limit: int
    successes_needed: int
    failure_rate_upper: float


class ReceiptsTaken(msgspec.Struct, frozen=True, kw_only=True):
    """What an import of receipts came to, counted in messages that are kept as records."""

    new_count: int
    known_count: int
    refused_count: int


class BytesRow(msgspec.Struct, frozen=True, kw_only=True):
    """Devices of one hardware that run one version.

    full_bytes, delta_bytes: what each fetches without and with deltas; None: there is no delta
        (or not yet).
    """

    hardware: str
    version_from: str
    device_count: int
    full_bytes: int
    delta_bytes: int | None


class BytesPreview(msgspec.Struct, frozen=True, kw_only=True):
    """What a rollout will send: blobs only, without the overhead of the wire.

    transfer_s: an estimate from measured goodput, waves one after the other; None where no device
        was measured. measured_count: devices whose link was measured; others count as the median.
    """

    rows: list[BytesRow]
    expected_bytes: int
    transfer_s: float | None
    measured_count: int


class PlanView(msgspec.Struct, frozen=True, kw_only=True):
    """A dry run: what exactly would happen. ``start_rollout`` with the same arguments does it.

    bytes_total: an upper bound of what all eligible devices will fetch, blobs only.
    bytes: what they will probably fetch, and for how long.
    command: the same as a command line.
    text: the same for a terminal, several lines.
    """

    line: str
    version: str
    digest: str
    eligible_count: int
    ineligible: list[IneligibleDevice]
    waves: list[PlannedWave]
    gate: Gate
    health: HealthSpec
    on_abort: Literal["halt", "return"]
    window: str
    bytes_total: int
    bytes: BytesPreview
    command: str
    text: str


class FeatureDrift(msgspec.Struct, frozen=True, kw_only=True):
    """One feature of one device: its recent windows against the bundle's reference.

    reference, observed: counts per bin, the same bins; ``edges`` are the inner bin edges, empty
    for the predicted class, whose bins are ``class_ids`` and one for every other class.
    ks: Kolmogorov-Smirnov distance; for the predicted class the total variation.
    psi_by_chance: what PSI of unchanged data stays below in 999 of 1,000 such comparisons.
    verdict: ``stable``, ``insufficient data``, ``moderate shift`` or ``major shift``.
    """

    feature: str
    psi: float
    psi_by_chance: float
    ks: float
    verdict: str
    edges: list[float]
    class_ids: list[int]
    reference: list[int]
    observed: list[int]
    nan_count: int


class DriftView(msgspec.Struct, frozen=True, kw_only=True):
    """Drift of one device on the version that it runs.

    samples: samples in the merged windows, the newest ones of this version (about 1,000).
    problem: why there are no features to show ("" when there are).
    """

    device: str
    line: str
    version: str
    digest: str
    online: bool
    alarms: list[DriftAlarm]
    samples: int
    windows: int
    from_ts: float | None
    to_ts: float | None
    features: list[FeatureDrift]
    problem: str


class VersionView(msgspec.Struct, frozen=True, kw_only=True):
    """One published bundle."""

    line: str
    version: str
    digest: str
    hardware: list[str]
    size_bytes: int
    running_on_count: int


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Something changed; whoever shows ``subject`` should ask for it again.

    kind: ``device``, ``rollout``, ``drift``, ``finding``, ``repository``, ``broker``, ``audit``.
    text: a sentence for an event log, "" for changes that are not worth one.
    """

    id: int
    at_s: float
    kind: str
    subject: str
    text: str


class Changes(msgspec.Struct, frozen=True, kw_only=True):
    """Changes after a cursor.

    reset: the cursor is from another run or too old; ask for everything again.
    """

    cursor: str
    reset: bool
    changes: list[Change]


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """How the manager itself is.

    queue_count: MQTT messages that wait to be ingested.
    records_count, duplicates_count, findings_count: over the life of the store.
    ingest_lag_s: age of the oldest message of the batch ingested last, when it was committed.
    """

    fleet: str
    broker: str
    connected: bool
    connected_since_s: float | None
    reconnects_count: int
    started_at_s: float
    now_s: float
    version: str
    devices_count: int
    online_count: int
    queue_count: int
    ingest_lag_s: float
    records_count: int
    duplicates_count: int
    findings_count: int
    blob_bytes_sent: int
    problem: str
