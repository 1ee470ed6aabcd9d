"""What devices say of a rollout: repeated, late, lost, or about something else."""

from __future__ import annotations

from msgspec.structs import replace

from fleet.rollout import verdict
from fleet.rollout.events import (
    DeviceFacts,
    DeviceOffline,
    DeviceOnline,
    DeviceReport,
    Log,
    Signed,
    WithdrawDevice,
)
from fleet.rollout.state import (
    BAD,
    IN_FLIGHT,
    RANK,
    DeviceRecord,
    Number,
    Phase,
    Status,
)
from fleet.rollout.table import heard, stepped
from fleet.rollout.turn import Turn

_OPENS_MAX_S = 2 * 86_400.0
"""Windows come once a day; what opens later than this never does."""
_HALTED = (Status.ABORTED, Status.ROLLING_BACK, Status.RETURN_PAUSED, Status.ROLLED_BACK)


def hear_report(turn: Turn, event: DeviceReport) -> None:
    """A step of an update."""
    record = turn.record(event.device)
    if record is None:
        return
    if event.phase is Phase.REFUSED and event.number < record.number:
        # It has gone on since: what it refuses is an old copy, that of a restored store perhaps.
        return
    plan = turn.state.plan
    if event.digest == plan.digest_to and record.phase in RANK and event.number >= record.floor:
        _answer(turn, event, record)
    elif event.phase is Phase.COMMITTED:
        _committed(turn, event.device, event.digest, event.number)
    elif event.phase in BAD and event.digest == record.digest_from and event.number >= record.floor:
        phase = stepped(record.phase, "return failed")
        if phase is not None:
            turn.put(event.device, replace(record, phase=phase, reason=event.reason))
            turn.effects.append(Log(f"{event.device} failed to return: {event.reason}"))


def _answer(turn: Turn, event: DeviceReport, record: DeviceRecord) -> None:
    """A report in answer to being asked."""
    changed = replace(record, number=max(record.number, event.number))
    if event.phase in IN_FLIGHT:
        reached = record.reached if record.reached in RANK else Phase.ASKED
        changed = replace(changed, reached=heard(reached, event.phase))
    phase = heard(record.phase, event.phase)
    if phase is not record.phase:
        changed = replace(changed, phase=phase)
        if phase is Phase.COMMITTED:
            changed = _with_commit(turn, changed)
        elif phase in BAD:
            back = record.digest_from if record.phase is Phase.COMMITTED else record.digest
            changed = replace(changed, digest=back, reason=event.reason, committed_at_s=None)
            how = verdict.failed_how(changed)
            turn.effects.append(Log(f"{event.device} {how}: {event.reason}"))
            if record.phase is Phase.COMMITTED and turn.state.status in _HALTED:
                # It left a version that was given up: its desired must not send it there again.
                turn.effects.append(WithdrawDevice(event.device, record.digest_from))
    turn.put(event.device, changed)


def _committed(turn: Turn, device: str, digest: str, number: Number) -> None:
    """A device is known to have committed ``digest``; this also makes up for lost reports."""
    record = turn.record(device)
    if record is None or number < record.number:
        return
    told = replace(record, number=number)
    if digest == turn.state.plan.digest_to:
        told = replace(told, digest=digest)
        if record.phase in IN_FLIGHT and number >= record.floor:
            told = _with_commit(turn, replace(told, phase=Phase.COMMITTED))
    elif record.phase is Phase.COMMITTED and number == record.number:
        return  # older than the commit that answered the same ``desired``
    else:
        told = replace(told, digest=digest)
        if record.phase is Phase.PENDING:
            told = replace(told, digest_from=digest)
        phase = stepped(record.phase, "returned")
        if phase is not None and digest == record.digest_from and number >= record.floor:
            told = replace(told, phase=phase)
    turn.put(device, told)


def hear_facts(turn: Turn, event: DeviceFacts) -> None:
    """What a device runs for good, and what it waits for."""
    _committed(turn, event.device, event.digest, event.number)
    _waits(turn, event)


def _waits(turn: Turn, event: DeviceFacts) -> None:
    """A device waits for a window, its own perhaps, that the manager did not know of."""
    record = turn.record(event.device)
    # One that waits no more installs now: its window's hour still counts for it.
    soon = 0 < event.opens_at_s <= turn.state.now_s + _OPENS_MAX_S
    if record is not None and soon and event.number >= record.floor:
        turn.put(event.device, replace(record, opens_at_s=event.opens_at_s))


def _with_commit(turn: Turn, record: DeviceRecord) -> DeviceRecord:
    return replace(record, digest=turn.state.plan.digest_to, committed_at_s=turn.state.now_s)


def hear_signed(turn: Turn, event: Signed) -> None:
    """From here on whatever answers a lower number answers something older."""
    record = turn.record(event.device)
    if record is not None and event.number > record.number:
        turn.put(event.device, replace(record, number=event.number, floor=event.number))


def hear_connection(turn: Turn, event: DeviceOnline | DeviceOffline) -> None:
    """A device came or went."""
    record = turn.record(event.device)
    if record is not None:
        turn.put(event.device, replace(record, online=isinstance(event, DeviceOnline)))
