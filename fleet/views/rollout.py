"""A rollout as people and programs see it: planned, as a row, and with its devices and log."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.health import HealthSpec
from fleet.rollout.gate import Gate

Pressed = Literal["pause", "resume", "abort", "rollback", "promote", "exclude"]
"""What an operator can do with a rollout that was started."""


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
        ``return_paused``, ``rolled_back``.
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
    clockless: devices that do not know the time of day, and would wait for the window for ever.
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
    clockless: list[str]
    command: str
    text: str
