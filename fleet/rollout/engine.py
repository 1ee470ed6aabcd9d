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

from fleet.rollout import verdict
from fleet.rollout.answers import hear_connection, hear_facts, hear_report, hear_signed
from fleet.rollout.commands import obey
from fleet.rollout.events import (
    DeviceFacts,
    DeviceOffline,
    DeviceOnline,
    DeviceReport,
    Effect,
    Event,
    Log,
    Signed,
    Tick,
)
from fleet.rollout.state import Phase, RolloutState, Status, Tally, bucket_of
from fleet.rollout.turn import Turn
from fleet.rollout.verdict import Judgement

_WATCHED = (Status.RUNNING, Status.PAUSED, Status.COMPLETED)


def step(state: RolloutState, event: Event) -> tuple[RolloutState, tuple[Effect, ...]]:
    """Work one event into a rollout. ``state`` is left as it was.

    Effects are in the order in which they are to be carried out.

    Raises:
        FleetError: a command that the rollout's status does not allow, or about a device that is
            not in its plan. Whatever devices say raises nothing.
    """
    turn = Turn(state, event.now_s)
    match event:
        case DeviceReport():
            hear_report(turn, event)
        case DeviceFacts():
            hear_facts(turn, event)
        case Signed():
            hear_signed(turn, event)
        case DeviceOnline() | DeviceOffline():
            hear_connection(turn, event)
        case Tick():
            pass
        case _:
            obey(turn, event)
    _judge(turn, state.tallies)
    return turn.state, tuple(turn.effects)


def _judge(turn: Turn, tallies_before: tuple[Tally, ...]) -> None:
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
            turn.open_wave(wave + 1)
    if turn.state.status is Status.ROLLING_BACK:
        late = turn.state.now_s - turn.state.wave_since_s >= plan.gate.wave_deadline_s
        open_count = sum(tally.returning for tally in turn.state.tallies)
        if late or open_count == 0:
            turn.move("all returned" if open_count == 0 else "deadline")
            turn.finish(verdict.rolled_back_sentence(turn.state), "rolled_back")
    elif turn.state.tallies != tallies_before:
        _refresh(turn)


def _refresh(turn: Turn) -> None:
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


def _abort_by_gate(turn: Turn, wave: int) -> None:
    sentence = verdict.aborted_by_gate_sentence(turn.state, wave)
    turn.move("gate failed")
    turn.withdraw_uncommitted()
    if turn.state.plan.on_abort == "return":
        for name, record in list(turn.state.devices.items()):
            if record.phase is Phase.COMMITTED and record.digest_from:
                turn.send_back(name)
    turn.finish(sentence, "fail")
