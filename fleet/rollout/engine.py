"""The rollout engine: ``step(state, event) -> (state, effects)``. No clock, no I/O, no randomness.

1. A device is asked only when its wave opens, and a wave opens only when the one before it passed
   or was promoted by an operator.
2. Nobody is asked while the rollout is not running.
3. Every event judges every open wave; too many failures abort at once, from a pause as well.
4. Reports may come repeated, in any order, late, never, or about something else: a device stands
   at the highest rank that it reported in answer to what it was last told (``Signed``).
5. A manager feeds a rollout only while it is the newest of its model line: the effects of an older
   one would speak against the newer one's.
"""

from __future__ import annotations

from msgspec.structs import replace

from fleet.errors import FleetError
from fleet.rollout import verdict
from fleet.rollout.events import (
    Abort,
    AskDevice,
    DeviceFacts,
    DeviceOffline,
    DeviceOnline,
    DeviceReport,
    Effect,
    Event,
    Exclude,
    Finished,
    Log,
    Pause,
    Promote,
    Resume,
    ReturnDevice,
    Rollback,
    Signed,
    Start,
    Tick,
    WithdrawDevice,
)
from fleet.rollout.state import (
    BAD,
    IN_FLIGHT,
    RANK,
    DeviceRecord,
    Outcome,
    Phase,
    RolloutState,
    Status,
    Tally,
    bucket_of,
)
from fleet.rollout.table import after, heard, stepped
from fleet.rollout.verdict import Judgement

_WATCHED = (Status.RUNNING, Status.PAUSED, Status.COMPLETED)
_OPENS_MAX_S = 2 * 86_400.0
"""Windows come once a day; what opens later than this never does."""
_HALTED = (Status.ABORTED, Status.ROLLING_BACK, Status.ROLLED_BACK)


def step(state: RolloutState, event: Event) -> tuple[RolloutState, tuple[Effect, ...]]:
    """Work one event into a rollout. ``state`` is left as it was.

    Effects are in the order in which they are to be carried out.

    Raises:
        FleetError: a command that the rollout's status does not allow, or about a device that is
            not in its plan. Whatever devices say raises nothing.
    """
    turn = _Turn(state, event.now_s)
    match event:
        case DeviceReport():
            _report(turn, event)
        case DeviceFacts():
            _committed(turn, event.device, event.digest, event.seq)
            _waits(turn, event)
        case Signed():
            _signed(turn, event)
        case DeviceOnline() | DeviceOffline():
            _connection(turn, event)
        case Tick():
            pass
        case _:
            _command(turn, event)
    _judge(turn, state.tallies)
    return turn.state, tuple(turn.effects)


class _Turn:
    """One step while it is worked out. The devices are copied at the first write to one."""

    def __init__(self, state: RolloutState, now_s: float) -> None:
        self.state = replace(state, now_s=max(state.now_s, now_s))
        self.effects: list[Effect] = []
        self._owned = False

    def record(self, device: str) -> DeviceRecord | None:
        return self.state.devices.get(device)

    def put(self, device: str, record: DeviceRecord) -> None:
        """Store a device's record and keep its wave's tally in step."""
        before = self.state.devices[device]
        if record == before:
            return
        if not self._owned:
            self.state = replace(self.state, devices=dict(self.state.devices))
            self._owned = True
        self.state.devices[device] = record
        old, new = bucket_of(before), bucket_of(record)
        if old != new:
            tallies = list(self.state.tallies)
            tally = tallies[record.wave]
            counts = {old: getattr(tally, old) - 1, new: getattr(tally, new) + 1}
            tallies[record.wave] = replace(tally, **counts)
            self.state = replace(self.state, tallies=tuple(tallies))

    def take(self, device: str, cause: str) -> bool:
        """Take the table's step for a device, if there is one; the floor rises with it."""
        record = self.state.devices[device]
        phase = stepped(record.phase, cause)
        if phase is None:
            return False
        self.put(device, replace(record, phase=phase, floor=record.seq + 1))
        return True

    def move(self, trigger: str) -> None:
        status = after(self.state.status, trigger, self.state.plan.rollout_id)
        self.state = replace(self.state, status=status)

    def say(self, sentence: str, outcome: Outcome = "") -> None:
        self.state = replace(self.state, sentence=sentence, outcome=outcome)
        self.effects.append(Log(sentence))

    def finish(self, sentence: str, outcome: Outcome) -> None:
        self.say(sentence, outcome)
        self.effects.append(Finished(outcome, sentence))


# What devices say. ------------------------------------------------------------------------------


def _report(turn: _Turn, event: DeviceReport) -> None:
    record = turn.record(event.device)
    if record is None:
        return
    if event.phase is Phase.REFUSED and event.seq < record.seq:
        # It has gone on since: what it refuses is an old copy, that of a restored store perhaps.
        return
    plan = turn.state.plan
    if event.digest == plan.digest_to and record.phase in RANK and event.seq >= record.floor:
        _answer(turn, event, record)
    elif event.phase is Phase.COMMITTED:
        _committed(turn, event.device, event.digest, event.seq)
    elif event.phase in BAD and event.digest == record.digest_from and event.seq >= record.floor:
        phase = stepped(record.phase, "return failed")
        if phase is not None:
            turn.put(event.device, replace(record, phase=phase, reason=event.reason))
            turn.effects.append(Log(f"{event.device} failed to return: {event.reason}"))


def _answer(turn: _Turn, event: DeviceReport, record: DeviceRecord) -> None:
    """A report in answer to being asked."""
    changed = replace(record, seq=max(record.seq, event.seq))
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


def _committed(turn: _Turn, device: str, digest: str, seq: int) -> None:
    """A device is known to have committed ``digest``; this also makes up for lost reports."""
    record = turn.record(device)
    if record is None or seq < record.seq:
        return
    told = replace(record, seq=seq)
    if digest == turn.state.plan.digest_to:
        told = replace(told, digest=digest)
        if record.phase in IN_FLIGHT and seq >= record.floor:
            told = _with_commit(turn, replace(told, phase=Phase.COMMITTED))
    elif record.phase is Phase.COMMITTED and seq == record.seq:
        return  # older than the commit that answered the same ``desired``
    else:
        told = replace(told, digest=digest)
        if record.phase is Phase.PENDING:
            told = replace(told, digest_from=digest)
        phase = stepped(record.phase, "returned")
        if phase is not None and digest == record.digest_from and seq >= record.floor:
            told = replace(told, phase=phase)
    turn.put(device, told)


def _waits(turn: _Turn, event: DeviceFacts) -> None:
    """A device waits for a window, its own perhaps, that the manager did not know of."""
    record = turn.record(event.device)
    # One that waits no more installs now: its window's hour still counts for it.
    soon = 0 < event.opens_at_s <= turn.state.now_s + _OPENS_MAX_S
    if record is not None and soon and event.seq >= record.floor:
        turn.put(event.device, replace(record, opens_at_s=event.opens_at_s))


def _with_commit(turn: _Turn, record: DeviceRecord) -> DeviceRecord:
    return replace(record, digest=turn.state.plan.digest_to, committed_at_s=turn.state.now_s)


def _signed(turn: _Turn, event: Signed) -> None:
    record = turn.record(event.device)
    if record is not None and event.seq > record.seq:
        turn.put(event.device, replace(record, seq=event.seq, floor=event.seq))


def _connection(turn: _Turn, event: DeviceOnline | DeviceOffline) -> None:
    record = turn.record(event.device)
    if record is not None:
        turn.put(event.device, replace(record, online=isinstance(event, DeviceOnline)))


# What operators say. ----------------------------------------------------------------------------


def _command(
    turn: _Turn, event: Start | Pause | Resume | Abort | Rollback | Promote | Exclude
) -> None:
    match event:
        case Start():
            turn.move("start")
            turn.effects.append(Log(f"Started by {event.who}"))
            _open_wave(turn, 0)
        case Pause():
            turn.move("pause")
            why = f": {event.reason}" if event.reason else ""
            turn.say(f"Paused by {event.who}{why}")
        case Resume():
            _resume(turn, event)
        case Promote():
            _promote(turn, event)
        case Exclude():
            _exclude(turn, event)
        case Abort():
            sentence = verdict.aborted_by_operator_sentence(turn.state, event.who, event.reason)
            turn.move("abort")
            _withdraw_uncommitted(turn)
            turn.finish(sentence, "fail")
        case Rollback():
            _roll_back(turn, event)


def _resume(turn: _Turn, event: Resume) -> None:
    turn.move("resume")
    aside = ""
    if event.acknowledge:
        failed = [n for n, r in turn.state.devices.items() if bucket_of(r) == "failed"]
        for name in failed:
            turn.put(name, replace(turn.state.devices[name], set_aside=True))
        aside = f", {len(failed)} failures acknowledged"
    turn.state = replace(turn.state, wave_since_s=turn.state.now_s)
    turn.say(f"Resumed by {event.who}{aside}")


def _promote(turn: _Turn, event: Promote) -> None:
    last = len(turn.state.plan.waves) - 1
    if turn.state.wave == last:
        turn.move("promote last wave")
        turn.effects.append(Log(f"Wave {last + 1} promoted by {event.who}"))
        turn.finish(verdict.completed_sentence(turn.state), "pass")
        return
    turn.move("promote")
    upto = last if event.everything else turn.state.wave + 1
    turn.say(f"Promoted by {event.who} up to wave {upto + 1}")
    for wave in range(turn.state.wave + 1, upto + 1):
        _open_wave(turn, wave)


def _exclude(turn: _Turn, event: Exclude) -> None:
    turn.move("exclude")
    record = turn.record(event.device)
    if record is None or not turn.take(event.device, "exclude"):
        raise FleetError(
            f"rollout {turn.state.plan.rollout_id}: expected a device of its plan to exclude, "
            f"got {event.device!r}" + (f", which is {record.phase.value}" if record else ""),
            hint=f"edge-fleet rollout status {turn.state.plan.rollout_id}",
        )
    if record.phase in IN_FLIGHT or record.phase in BAD:
        turn.effects.append(WithdrawDevice(event.device, record.digest_from))
    turn.effects.append(Log(f"{event.device} excluded by {event.who}"))


def _roll_back(turn: _Turn, event: Rollback) -> None:
    """Return whoever is, or may by now be, on the new version; nobody else is disturbed."""
    plan = turn.state.plan
    halted = turn.state.status is Status.ABORTED
    turn.move("rollback")
    turn.state = replace(turn.state, wave_since_s=turn.state.now_s)
    turn.say(f"Rolling back by {event.who}")
    for name, record in list(turn.state.devices.items()):
        may_be_new = record.digest == plan.digest_to or record.phase in IN_FLIGHT
        if may_be_new and record.digest_from:
            _return(turn, name)
        elif record.phase in IN_FLIGHT or (record.phase in BAD and not halted):
            turn.take(name, "withdraw")
            turn.effects.append(WithdrawDevice(name, record.digest_from))
        elif record.phase is Phase.COMMITTED and record.digest == plan.digest_to:
            turn.effects.append(Log(f"{name} had no version before and keeps {plan.version_to}"))


# What follows from the counts. ------------------------------------------------------------------


def _judge(turn: _Turn, tallies_before: tuple[Tally, ...]) -> None:
    plan = turn.state.plan
    if turn.state.status in _WATCHED:
        for wave in range(turn.state.wave + 1):
            if verdict.over_limit(plan.gate, len(plan.waves[wave]), turn.state.tallies[wave]):
                _abort_by_gate(turn, wave)
                return
    while turn.state.status is Status.RUNNING:
        wave = turn.state.wave
        judgement = verdict.judge_wave(
            plan.gate,
            len(plan.waves[wave]),
            turn.state.tallies[wave],
            _soaked(turn.state),
            verdict.waited_s(turn.state),
            _excused(turn.state),
        )
        if judgement is Judgement.WAIT:
            return
        if judgement is Judgement.FAIL:
            _abort_by_gate(turn, wave)
        elif judgement is Judgement.INSUFFICIENT:
            turn.move("insufficient data")
            turn.say(verdict.insufficient_sentence(turn.state), "insufficient")
        elif wave + 1 == len(plan.waves):
            if verdict.is_busy(turn.state):
                return
            turn.move("last wave passed")
            turn.finish(verdict.completed_sentence(turn.state), "pass")
        else:
            turn.move("wave passed")
            turn.effects.append(Log(f"Wave {wave + 1} passed"))
            _open_wave(turn, wave + 1)
    if turn.state.status is Status.ROLLING_BACK:
        late = turn.state.now_s - turn.state.wave_since_s >= plan.gate.wave_deadline_s
        open_count = sum(tally.returning for tally in turn.state.tallies)
        if late or open_count == 0:
            turn.move("all returned" if open_count == 0 else "deadline")
            turn.finish(verdict.rolled_back_sentence(turn.state), "rolled_back")
    elif turn.state.tallies != tallies_before:
        _refresh(turn)


def _refresh(turn: _Turn) -> None:
    """Keep the sentence of a rollout at rest true when somebody answers late."""
    if turn.state.status is Status.COMPLETED:
        sentence = verdict.completed_sentence(turn.state)
    elif turn.state.status is Status.ROLLED_BACK:
        sentence = verdict.rolled_back_sentence(turn.state)
    else:
        return
    turn.state = replace(turn.state, sentence=sentence)


def _soaked(state: RolloutState) -> int:
    """Devices of the open wave that have run the new version for ``soak_s``."""
    tally = state.tallies[state.wave]
    soak_s = state.plan.gate.soak_s
    if soak_s == 0:
        return tally.committed
    records = (state.devices[name] for name in state.plan.waves[state.wave])
    return sum(
        record.phase is Phase.COMMITTED
        and record.committed_at_s is not None
        and state.now_s - record.committed_at_s >= soak_s
        for record in records
    )


def _excused(state: RolloutState) -> int:
    """Devices of the open wave that may be late: their window opens, or opened a deadline ago."""
    deadline_s = state.plan.gate.wave_deadline_s
    if verdict.waited_s(state) < deadline_s:
        return 0  # nobody is late yet
    records = (state.devices[name] for name in state.plan.waves[state.wave])
    return sum(
        bucket_of(record) == "in_flight" and state.now_s < record.opens_at_s + deadline_s
        for record in records
    )


def _open_wave(turn: _Turn, wave: int) -> None:
    plan = turn.state.plan
    turn.state = replace(turn.state, wave=wave, wave_since_s=turn.state.now_s)
    names = [name for name in plan.waves[wave] if turn.take(name, "wave opens")]
    turn.say(f"Wave {wave + 1} of {len(plan.waves)}: asked {verdict.in_devices(len(names))}")
    turn.effects += [AskDevice(name, plan.digest_to) for name in names]


def _abort_by_gate(turn: _Turn, wave: int) -> None:
    sentence = verdict.aborted_by_gate_sentence(turn.state, wave)
    turn.move("gate failed")
    _withdraw_uncommitted(turn)
    if turn.state.plan.on_abort == "return":
        for name, record in list(turn.state.devices.items()):
            if record.phase is Phase.COMMITTED and record.digest_from:
                _return(turn, name)
    turn.finish(sentence, "fail")


def _withdraw_uncommitted(turn: _Turn) -> None:
    """No ``desired`` may go on naming a version that was aborted, those of failed devices too."""
    for name, record in list(turn.state.devices.items()):
        if turn.take(name, "withdraw") or record.phase in BAD:
            turn.effects.append(WithdrawDevice(name, record.digest_from))


def _return(turn: _Turn, device: str) -> None:
    record = turn.state.devices[device]
    if turn.take(device, "return"):
        turn.effects.append(ReturnDevice(device, record.digest_from))
