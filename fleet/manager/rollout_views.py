"""Stored rollouts as people see them."""

from __future__ import annotations

from typing import Literal, TypedDict, get_args

from sqlalchemy import Connection

from edge_contract.messages import AgentState
from edge_contract.window import is_open, opens_at_s
from fleet.manager.catalogue import Catalogue
from fleet.manager.device_views import last_state
from fleet.manager.rollouts import no_rollout
from fleet.rollout.state import IN_FLIGHT, DeviceRecord, RolloutState, Status
from fleet.rollout.table import MOVES
from fleet.rollout.verdict import failure_groups, phase_counts
from fleet.store import devices, journal, rollouts
from fleet.store.rollouts import RolloutRow
from fleet.views.rollout import (
    FailureGroup,
    IneligibleDevice,
    LogLine,
    Pressed,
    RolloutDetail,
    RolloutDevice,
    RolloutView,
    WaveView,
)

_LOG_MAX = 1000
_PRESSED: tuple[Pressed, ...] = get_args(Pressed)


def all_rollouts(tx: Connection, catalogue: Catalogue, now_s: float) -> list[RolloutView]:
    """All rollouts, newest first."""
    newest: set[str] = set()
    views = []
    for row in rollouts.list_rollouts(tx):
        line = row.state.plan.model_line
        views.append(_rollout_view(row, catalogue, now_s, newest=line not in newest))
        newest.add(line)
    return views


def one_rollout(tx: Connection, catalogue: Catalogue, rollout: str, now_s: float) -> RolloutDetail:
    """One rollout with its devices, failures and log.

    Raises:
        FleetError: there is none of this id.
    """
    row = rollouts.get_rollout(tx, rollout)
    if row is None:
        raise no_rollout(rollout)
    plan = row.state.plan
    hardware = {device.device: device.hardware for device in plan.devices}
    newest = {other.id for other in rollouts.newest_rollouts(tx)}
    busy = {name for name, record in row.state.devices.items() if record.phase in IN_FLIGHT}
    states = {
        device.device: last_state(device)
        for device in (devices.list_devices(tx) if busy else ())
        if device.device in busy
    }
    log = journal.read_log(tx, kind="rollout", subject=rollout, limit=_LOG_MAX)
    return RolloutDetail(
        rollout=_rollout_view(row, catalogue, now_s, newest=rollout in newest),
        phases=phase_counts(row.state),
        devices=[
            RolloutDevice(
                device=name,
                hardware=hardware[name],
                wave=record.wave + 1,
                phase=record.phase.value,
                reached=record.reached.value,
                online=record.online,
                digest_from=record.digest_from,
                version_from=catalogue.version_of(plan.model_line, record.digest_from),
                reason=record.reason,
                seq=record.number[1],
                **_waits(states.get(name), record, now_s),
            )
            for name, record in sorted(
                row.state.devices.items(), key=lambda item: (item[1].wave, item[0])
            )
        ],
        ineligible=[
            IneligibleDevice(device=item.device, hardware=item.hardware, why=item.why)
            for item in plan.ineligible
        ],
        failures=[
            FailureGroup(
                wave=group.wave,
                hardware=group.hardware,
                step=group.step,
                reason=group.reason,
                devices=list(group.devices),
            )
            for group in failure_groups(row.state)
        ],
        log=[log_line(line) for line in reversed(log)],
        gate=plan.gate,
        health=row.health,
        on_abort=plan.on_abort,
    )


def _rollout_view(
    row: RolloutRow, catalogue: Catalogue, now_s: float, *, newest: bool
) -> RolloutView:
    """One rollout as a row; only the newest of a line takes commands."""
    state = row.state
    plan = state.plan
    before = {catalogue.version_of(plan.model_line, d.digest_from) for d in plan.devices}
    moves = {move.trigger for move in MOVES if move.before is state.status}
    return RolloutView(
        id=row.id,
        line=plan.model_line,
        version=plan.version_to,
        digest=plan.digest_to,
        from_versions=sorted(before - {""}),
        status=state.status.value,
        outcome=state.outcome,
        sentence=state.sentence,
        wave=state.wave + 1,
        window=plan.window,
        opens_at_s=None if is_open(plan.window, now_s) else opens_at_s([plan.window], now_s),
        waves=[_wave(state, index) for index in range(len(plan.waves))],
        device_count=len(plan.devices),
        committed_count=sum(tally.committed for tally in state.tallies),
        failed_count=sum(tally.failed + tally.set_aside for tally in state.tallies),
        created_at_s=row.created_at_s,
        created_by=row.created_by,
        updated_at_s=row.updated_at_s,
        commands=[command for command in _PRESSED if newest and command in moves],
    )


class _Waits(TypedDict):
    waits_for: str
    opens_at_s: float | None


def _waits(state: AgentState | None, record: DeviceRecord, now_s: float) -> _Waits:
    """What an unfinished device last said that its update waits for."""
    if state is None or record.phase not in IN_FLIGHT or not state.update_waits_for:
        return _Waits(waits_for="", opens_at_s=None)
    opens_s = state.update_opens_ts
    return _Waits(waits_for=state.update_waits_for, opens_at_s=opens_s if opens_s > now_s else None)


def log_line(row: journal.LogRow) -> LogLine:
    """One line of the log."""
    return LogLine(
        id=row.id,
        at_s=row.at_s,
        kind=row.kind,
        subject=row.subject,
        severity=row.severity,
        text=row.text,
    )


def _wave(state: RolloutState, index: int) -> WaveView:
    tally = state.tallies[index]
    count = len(state.plan.waves[index])
    passed = index < state.wave or (index == state.wave and state.status is Status.COMPLETED)
    word: Literal["closed", "open", "passed"] = "closed"
    if passed:
        word = "passed"
    elif index == state.wave:
        word = "open"
    return WaveView(
        wave=index + 1,
        state=word,
        device_count=count,
        waiting=tally.waiting,
        in_flight=tally.in_flight,
        offline=tally.offline,
        held=tally.held,
        committed=tally.committed,
        failed=tally.failed,
        set_aside=tally.set_aside,
        returning=tally.returning,
        out=tally.out,
        failures_limit=state.plan.gate.limit(count),
        successes_needed=state.plan.gate.needed(count),
    )
