"""The moves of a rollout and the steps of a device, as tables. What is not listed cannot happen."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from fleet.errors import FleetError
from fleet.rollout.state import BAD, IN_FLIGHT, RANK, Phase, Status


class Move(NamedTuple):
    """From one status of the rollout to another, and what makes it happen."""

    before: Status
    trigger: str
    after: Status


_S = Status
MOVES: tuple[Move, ...] = (
    # before            trigger              after
    Move(_S.DRAFT, "start", _S.RUNNING),
    Move(_S.DRAFT, "exclude", _S.DRAFT),
    Move(_S.DRAFT, "abort", _S.ABORTED),
    Move(_S.RUNNING, "wave passed", _S.RUNNING),
    Move(_S.RUNNING, "promote", _S.RUNNING),
    Move(_S.RUNNING, "exclude", _S.RUNNING),
    Move(_S.RUNNING, "last wave passed", _S.COMPLETED),
    Move(_S.RUNNING, "promote last wave", _S.COMPLETED),
    Move(_S.RUNNING, "pause", _S.PAUSED),
    Move(_S.RUNNING, "insufficient data", _S.PAUSED),
    Move(_S.RUNNING, "backup restored", _S.PAUSED),
    Move(_S.RUNNING, "gate failed", _S.ABORTED),
    Move(_S.RUNNING, "abort", _S.ABORTED),
    Move(_S.RUNNING, "rollback", _S.ROLLING_BACK),
    Move(_S.PAUSED, "resume", _S.RUNNING),
    Move(_S.PAUSED, "promote", _S.RUNNING),
    Move(_S.PAUSED, "exclude", _S.PAUSED),
    Move(_S.PAUSED, "promote last wave", _S.COMPLETED),
    Move(_S.PAUSED, "gate failed", _S.ABORTED),
    Move(_S.PAUSED, "abort", _S.ABORTED),
    Move(_S.PAUSED, "rollback", _S.ROLLING_BACK),
    Move(_S.COMPLETED, "gate failed", _S.ABORTED),
    Move(_S.COMPLETED, "abort", _S.ABORTED),
    Move(_S.COMPLETED, "rollback", _S.ROLLING_BACK),
    Move(_S.ABORTED, "rollback", _S.ROLLING_BACK),
    Move(_S.ROLLING_BACK, "all returned", _S.ROLLED_BACK),
    Move(_S.ROLLING_BACK, "deadline", _S.ROLLED_BACK),
    Move(_S.ROLLING_BACK, "exclude", _S.ROLLING_BACK),
    Move(_S.ROLLING_BACK, "backup restored", _S.RETURN_PAUSED),
    Move(_S.RETURN_PAUSED, "resume", _S.ROLLING_BACK),
    Move(_S.RETURN_PAUSED, "exclude", _S.RETURN_PAUSED),
    Move(_S.RETURN_PAUSED, "abort", _S.ABORTED),
    Move(_S.ROLLED_BACK, "rollback", _S.ROLLING_BACK),
)
_AFTER = {(move.before, move.trigger): move.after for move in MOVES}
_COMMANDS = {"start", "pause", "resume", "promote", "exclude", "abort", "rollback"}


class Step(NamedTuple):
    """What takes a device that stands in any of ``before`` to ``after``."""

    before: frozenset[Phase]
    cause: str
    after: Phase


_P = Phase
_ASKED = frozenset(RANK)
STEPS: tuple[Step, ...] = (
    # before                                           cause            after
    Step(frozenset({_P.PENDING}), "wave opens", _P.ASKED),
    Step(frozenset({_P.PENDING, _P.RETURNING}) | _ASKED, "exclude", _P.EXCLUDED),
    Step(IN_FLIGHT, "withdraw", _P.WITHDRAWN),
    Step(_ASKED | {_P.PENDING, _P.WITHDRAWN, _P.RETURN_FAILED}, "return", _P.RETURNING),
    Step(frozenset({_P.RETURNING, _P.RETURN_FAILED}), "returned", _P.RETURNED),
    Step(frozenset({_P.RETURNING}), "return failed", _P.RETURN_FAILED),
)
"""Steps that the engine takes. The steps that a device reports follow ``RANK`` instead."""
_STEP = {(before, step.cause): step.after for step in STEPS for before in step.before}


def after(status: Status, trigger: str, rollout_id: str) -> Status:
    """The status that ``trigger`` leads to.

    Raises:
        FleetError: the table has no such move.
    """
    found = _AFTER.get((status, trigger))
    if found is None:
        allowed = sorted({move.trigger for move in MOVES if move.before is status} & _COMMANDS)
        raise FleetError(
            f"rollout {rollout_id} is {status.value}: expected "
            f"{' or '.join(allowed) or 'no further command'}, got {trigger}",
            hint=f"edge-fleet rollout status {rollout_id}",
            docs="explanation/rollout.md",
        )
    return found


def stepped(phase: Phase, cause: str) -> Phase | None:
    """The phase that ``cause`` leads to, None where the table has no such step."""
    return _STEP.get((phase, cause))


def heard(phase: Phase, reported: Phase) -> Phase:
    """Where an asked device stands after a report: the higher rank, whichever came first."""
    return max(phase, reported, key=RANK.__getitem__)


def rollout_diagram() -> str:
    """``MOVES`` as a mermaid state diagram."""
    arrows = [(move.before.value, move.trigger, move.after.value) for move in MOVES]
    return _mermaid(["[*] --> draft"], arrows)


def device_diagram() -> str:
    """``RANK`` and ``STEPS`` as a mermaid state diagram."""
    flight = sorted(IN_FLIGHT, key=RANK.__getitem__)
    head = ["[*] --> pending", "state in_flight {"]
    head += [f"    {a.value} --> {b.value}" for a, b in pairwise(flight)]
    head.append("}")
    ends = [phase for phase in RANK if phase not in IN_FLIGHT]
    arrows = [("in_flight", "report", end.value) for end in ends]
    arrows += [(_P.COMMITTED.value, "report", end.value) for end in ends if end in BAD]
    for step in STEPS:
        names = {"in_flight" if phase in IN_FLIGHT else phase.value for phase in step.before}
        arrows += [(name, step.cause, step.after.value) for name in sorted(names)]
    return _mermaid(head, arrows)


def _mermaid(head: list[str], arrows: list[tuple[str, str, str]]) -> str:
    causes: dict[tuple[str, str], list[str]] = {}
    for before, cause, to in arrows:
        causes.setdefault((before, to), []).append(cause)
    lines = [*head, *(f"{a} --> {b}: {', '.join(why)}" for (a, b), why in causes.items())]
    return "stateDiagram-v2\n" + "".join(f"    {line}\n" for line in lines)
