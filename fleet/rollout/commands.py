"""What operators say to a rollout."""

from __future__ import annotations

from msgspec.structs import replace

from fleet.errors import FleetError
from fleet.rollout import verdict
from fleet.rollout.events import (
    Abort,
    Exclude,
    Log,
    Pause,
    Promote,
    Restored,
    Resume,
    Rollback,
    Start,
    WithdrawDevice,
)
from fleet.rollout.state import BAD, IN_FLIGHT, Phase, Status, bucket_of
from fleet.rollout.turn import Turn

Command = Start | Pause | Restored | Resume | Abort | Rollback | Promote | Exclude


def obey(turn: Turn, event: Command) -> None:
    """Carry out an order.

    Raises:
        FleetError: the rollout's status does not allow it, or the device is not in its plan.
    """
    match event:
        case Start():
            turn.move("start")
            turn.effects.append(Log(f"Started by {event.who}"))
            turn.open_wave(0)
        case Pause():
            turn.move("pause")
            why = f": {event.reason}" if event.reason else ""
            turn.say(f"Paused by {event.who}{why}")
        case Restored():
            turn.move("backup restored")
            turn.say(
                f"Paused by {event.who}: a backup was restored, and devices may have gone on since"
            )
        case Resume():
            _resume(turn, event)
        case Promote():
            _promote(turn, event)
        case Exclude():
            _exclude(turn, event)
        case Abort():
            sentence = verdict.aborted_by_operator_sentence(turn.state, event.who, event.reason)
            turn.move("abort")
            turn.withdraw_uncommitted()
            turn.finish(sentence, "fail")
        case Rollback():
            _roll_back(turn, event)


def _resume(turn: Turn, event: Resume) -> None:
    turn.move("resume")
    aside = ""
    if event.acknowledge:
        failed = [n for n, r in turn.state.devices.items() if bucket_of(r) == "failed"]
        for name in failed:
            turn.put(name, replace(turn.state.devices[name], set_aside=True))
        aside = f", {len(failed)} failures acknowledged"
    turn.state = replace(turn.state, wave_since_s=turn.state.now_s)
    turn.say(f"Resumed by {event.who}{aside}")


def _promote(turn: Turn, event: Promote) -> None:
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
        turn.open_wave(wave)


def _exclude(turn: Turn, event: Exclude) -> None:
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


def _roll_back(turn: Turn, event: Rollback) -> None:
    """Return whoever is, or may by now be, on the new version; nobody else is disturbed."""
    plan = turn.state.plan
    halted = turn.state.status is Status.ABORTED
    turn.move("rollback")
    turn.state = replace(turn.state, wave_since_s=turn.state.now_s)
    turn.say(f"Rolling back by {event.who}")
    for name, record in list(turn.state.devices.items()):
        may_be_new = record.digest == plan.digest_to or record.phase in IN_FLIGHT
        if may_be_new and record.digest_from:
            turn.send_back(name)
        elif record.phase in IN_FLIGHT or (record.phase in BAD and not halted):
            turn.take(name, "withdraw")
            turn.effects.append(WithdrawDevice(name, record.digest_from))
        elif record.phase is Phase.COMMITTED and record.digest == plan.digest_to:
            turn.effects.append(Log(f"{name} had no version before and keeps {plan.version_to}"))
