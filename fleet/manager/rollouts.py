"""Drives the rollout engine: states in, events through ``step``, states and effects out.

Within one transaction a turn loads what it needs, steps the engine, and writes the new states, the
log lines and the effects (into the outbox). Only the newest rollout of a model line is fed: the
effects of an older one would speak against it.
"""

from __future__ import annotations

from collections.abc import Iterable

from sqlalchemy import Connection

from edge_contract.errors import ExitCode
from edge_contract.health import HealthSpec
from fleet.errors import FleetError
from fleet.rollout.engine import step
from fleet.rollout.events import (
    AskDevice,
    Event,
    Log,
    ReturnDevice,
    Signed,
    Tick,
    WithdrawDevice,
)
from fleet.rollout.state import AT_REST, Number, RolloutState, Status
from fleet.store import journal, orders
from fleet.store.orders import DeviceEffect
from fleet.store.rollouts import RolloutRow, add_rollout, get_rollout, newest_rollouts, save_state

_TICKED = frozenset({Status.RUNNING, Status.ROLLING_BACK})


class Rollouts:
    """The newest rollout of every line, in memory as after the last commit."""

    def __init__(self) -> None:
        self._newest: dict[str, RolloutState] = {}

    def load(self, tx: Connection) -> None:
        """Read the store, once at the start."""
        self._newest = {row.state.plan.model_line: row.state for row in newest_rollouts(tx)}

    def open(self, tx: Connection, now_s: float) -> RolloutTurn:
        """Begin to step rollouts within the transaction ``tx``."""
        return RolloutTurn(self._newest, tx, now_s)

    def ticking(self) -> list[str]:
        """Lines whose rollout waits for time to pass."""
        return [line for line, state in self._newest.items() if state.status in _TICKED]


class RolloutTurn:
    """Steps within one transaction; ``committed`` makes them the truth in memory."""

    def __init__(self, newest: dict[str, RolloutState], tx: Connection, now_s: float) -> None:
        self._newest = newest
        self.tx = tx
        self.now_s = now_s
        self._changed: dict[str, RolloutState] = {}
        self._effects: list[tuple[str, DeviceEffect]] = []
        self._log: list[tuple[str, str]] = []

    def newest(self, line: str) -> RolloutState | None:
        """The newest rollout of a line, with this turn's steps in it."""
        return self._changed.get(line) or self._newest.get(line)

    def feed(self, line: str, *events: Event) -> None:
        """Tell the line's newest rollout what happened to a device of it."""
        for event in events:
            state = self.newest(line)
            if state is not None and state.status is not Status.DRAFT:
                self._step(line, state, event)

    def tick(self, lines: Iterable[str]) -> None:
        """Let time pass."""
        for line in lines:
            self.feed(line, Tick(now_s=self.now_s))

    def signed(self, line: str, device: str, number: Number) -> None:
        """Tell the line's newest rollout which number the last order got."""
        self.feed(line, Signed(now_s=self.now_s, device=device, number=number))

    def begin(self, row: RolloutRow, start: Event) -> RolloutState:
        """Store a new rollout and start it.

        Raises:
            FleetError: another one of the line is not at rest.
        """
        line = row.state.plan.model_line
        active = self.newest(line)
        if active is not None and active.status not in AT_REST:
            other = active.plan.rollout_id
            raise FleetError(
                f"rollout {other} of {line} is {active.status.value}; only one of a line at a time",
                hint=f"edge-fleet rollout status {other}, or end it: edge-fleet rollout abort"
                f" {other} --reason …",
            )
        add_rollout(self.tx, row)
        self._changed[line] = row.state
        self._step(line, row.state, start)
        return self._changed[line]

    def command(self, rollout: str, event: Event) -> RolloutState:
        """Carry out an operator's order.

        Raises:
            FleetError: no such rollout, not the newest of its line, or not allowed now.
        """
        for line, state in {**self._newest, **self._changed}.items():
            if state.plan.rollout_id == rollout:
                self._step(line, state, event)
                return self._changed.get(line, state)
        row = get_rollout(self.tx, rollout)
        if row is None:
            raise no_rollout(rollout)
        newer = self._newest[row.state.plan.model_line].plan.rollout_id
        raise FleetError(
            f"rollout {rollout} is over: {newer} is the newest of {row.state.plan.model_line}",
            hint=f"edge-fleet rollout status {newer}",
        )

    def write(self) -> None:
        """Write states, log lines and effects into the transaction."""
        for state in self._changed.values():
            save_state(self.tx, state, self.now_s)
        for rollout, text in self._log:
            journal.add_log(self.tx, self.now_s, "rollout", rollout, text)
        for rollout, effect in self._effects:
            orders.queue_effects(self.tx, rollout, [effect])

    def committed(self) -> list[tuple[str, str]]:
        """Call once the transaction is committed; returns (rollout, text) for the feed."""
        self._newest.update(self._changed)
        silent = {state.plan.rollout_id for state in self._changed.values()}
        told = {rollout for rollout, _ in self._log}
        return [*self._log, *((rollout, "") for rollout in sorted(silent - told))]

    def _step(self, line: str, state: RolloutState, event: Event) -> None:
        after, effects = step(state, event)
        if effects or _differs(state, after):
            self._changed[line] = after
        rollout = after.plan.rollout_id
        for effect in effects:
            if isinstance(effect, AskDevice | ReturnDevice | WithdrawDevice):
                self._effects.append((rollout, effect))
            elif isinstance(effect, Log):
                self._log.append((rollout, effect.text))


def _differs(before: RolloutState, after: RolloutState) -> bool:
    """Whether anything but the time is another. The engine copies ``devices`` on a change only."""
    return (
        after.devices is not before.devices
        or (after.status, after.outcome, after.sentence, after.wave, after.wave_since_s)
        != (before.status, before.outcome, before.sentence, before.wave, before.wave_since_s)
        or after.tallies != before.tallies
    )


def health_of(tx: Connection, rollout: str) -> HealthSpec:
    """The health spec that a rollout was started with."""
    row = get_rollout(tx, rollout)
    return row.health if row else HealthSpec()


def window_of(tx: Connection, rollout: str, digest: str) -> str:
    """The window of a rollout's own version. The way back to another one is open at all hours."""
    row = get_rollout(tx, rollout)
    return row.state.plan.window if row and row.state.plan.digest_to == digest else ""


def no_rollout(rollout: str) -> FleetError:
    """There is no rollout of this id."""
    return FleetError(
        f"no rollout {rollout!r}",
        hint="edge-fleet rollout status",
        exit_code=ExitCode.NOT_FOUND,
    )
