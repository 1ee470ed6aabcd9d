"""The table itself: complete, true to its own columns, and safe under any sequence of events."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.update import arrivals, machine
from edge_agent.update.effects import (
    Asked,
    Clean,
    Commit,
    Effect,
    Fetch,
    Report,
    StageFiles,
    Switch,
)
from edge_agent.update.events import (
    Answer,
    Committed,
    DeadlinePassed,
    Event,
    FetchDone,
    Held,
    HookAnswer,
    Ordered,
    Released,
    Restarted,
    SelfTestPassed,
    StageDone,
    Superseded,
    Switched,
    TrialVerdict,
)
from edge_agent.update.machine import ROWS, TABLE, step
from edge_agent.update.order import Order, Origin
from edge_agent.update.state import Stage, UpdateState, deadline_s
from edge_contract.messages import TERMINAL_PHASES
from tests.update.bundles import Version, make_version

VERSIONS = [make_version(f"{n}.0.0") for n in range(1, 4)]
ALWAYS: list[type[Event]] = [Superseded, Restarted, DeadlinePassed, Held, Released]


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("event", ALWAYS)
def test_every_stage_has_a_row_for_what_may_come_at_any_time(
    stage: Stage, event: type[Event]
) -> None:
    assert (stage, event) in TABLE


def test_no_pair_stands_twice_and_every_answer_is_awaited_somewhere() -> None:
    assert len(TABLE) == len(ROWS)
    awaited = {row.event for row in ROWS}
    assert set(Answer.__subclasses__()) <= awaited


def test_every_stage_but_idle_has_a_deadline() -> None:
    order = VERSIONS[0].order(1)
    for stage in Stage:
        limited = deadline_s(UpdateState(stage=stage, order=order)) < 30 * 24 * 3600
        assert limited is (stage is not Stage.IDLE)


def test_every_row_is_reachable_from_idle() -> None:
    reached, frontier = {Stage.IDLE}, [Stage.IDLE]
    while frontier:
        stage = frontier.pop()
        for row in ROWS:
            for target in row.to:
                if row.stage is stage and target not in reached:
                    reached.add(target)
                    frontier.append(target)
    assert reached == set(Stage)


def _event(
    kind: type[Event],
    version: Version,
    state: UpdateState,
    newer: int,
    origin: Origin,
    ticket: int,
    word: str,
    disk: Disk,
) -> Event:
    if kind is Restarted:
        return disk.restarted({"ok": "clean", "refuse": "crash", "later": "power"}[word])
    if kind in (Ordered, Superseded):
        # The fleet numbers above its own orders, whether it has heard of those by hand or not.
        before = state.obeyed if origin == "fleet" else state.seen
        return kind(version.order(max(0, before[1] + newer), origin=origin))
    fields: dict[str, object] = {
        "ticket": ticket,
        "reason": "why",
        "answer": word,
        "slot": "B",
        "healthy": word == "ok",
        "refused": word == "refuse",
        "full": word == "later",
    }
    return kind(**{name: fields[name] for name in kind.__struct_fields__})


KINDS = sorted({row.event for row in ROWS}, key=lambda kind: kind.__name__)
AWAITED = {
    stage: [row.event for row in ROWS if row.stage is stage and row.event not in ALWAYS]
    for stage in Stage
}


class Disk:
    """What the pointer would say, moved only by the effects that may move it."""

    def __init__(self) -> None:
        self.active = self.trial = ""

    def take(self, effect: Effect) -> None:
        if isinstance(effect, Switch):
            self.trial = effect.order.digest
        elif isinstance(effect, Commit):
            assert effect.order.digest in (self.trial, self.active)
            self.active, self.trial = effect.order.digest, ""
        elif type(effect).__name__ == "Revert":
            self.trial = ""

    def restarted(self, boot: str) -> Restarted:
        return Restarted(
            boot=boot,  # type: ignore[arg-type]
            active=self.active,
            active_slot="A" if self.active else "",
            trial=self.trial,
        )


RANDOM = len(KINDS) + 2 * len(ALWAYS)
STEPS = st.tuples(
    st.integers(0, 2),  # which version
    st.integers(-1, 2),  # how much newer than the newest order
    st.sampled_from(["ok", "ok", "ok", "refuse", "later"]),
    st.integers(0, 11),  # 0: a stale ticket
    st.integers(0, 2 * RANDOM),  # from RANDOM on: what the stage waits for
)


# The straight way of one order: from here every stage is some steps deep.
FIRST_INSTALL = [(0, 1, "ok", 1, KINDS.index(Ordered))] + [
    (0, 1, "ok", 1, KINDS.index(kind))
    for kind in (
        FetchDone, HookAnswer, StageDone, SelfTestPassed, HookAnswer, Switched, TrialVerdict,
        HookAnswer, Committed,
    )
]  # fmt: skip


@settings(max_examples=600, deadline=None)
@given(
    st.integers(0, len(FIRST_INSTALL)).map(
        lambda n: [(1, *rest) for _, *rest in FIRST_INSTALL[:n]]
    ),
    st.lists(STEPS, min_size=3, max_size=40),
)
def test_any_sequence_of_events_keeps_the_promises_of_the_table(
    way: list[tuple[int, int, str, int, int]], steps: list[tuple[int, int, str, int, int]]
) -> None:
    state, disk = UpdateState(), Disk()
    ended: set[tuple[Order, str]] = set()
    begun: list[Order] = []
    for number, newer, word, fresh, choice in [*FIRST_INSTALL, *way, *steps]:
        awaited = AWAITED[state.stage]
        often = (*KINDS, *ALWAYS, *ALWAYS)
        kind = often[choice] if choice < RANDOM else awaited[choice % len(awaited)]
        ticket = state.ticket - (fresh == 0)
        origin: Origin = "medium" if fresh % 4 == 2 else "fleet"
        event = _event(kind, VERSIONS[number], state, newer, origin, ticket, word, disk)
        before = state
        row = TABLE.get((before.stage, _taken_as(event, before)))
        state, effects = step(before, event)
        # The row says where it may lead, and an event without a row changes nothing.
        if row is None:
            assert (state, effects) == (before, ())
            continue
        assert state.stage in (*row.to, before.stage)
        assert state.ticket >= before.ticket
        # The newest order always wins; an older one, or the same again, is a replay.
        if isinstance(event, (Ordered, Superseded)):
            bar = before.seen if event.order.by_hand else before.obeyed
            told = (state.order, state.waiting, state.ended and state.ended.order)
            if event.order.key > bar:
                assert event.order in told
            elif not arrivals.was_lost(before):
                assert (state, effects) == (before, ())
        # A stage that is entered asks for exactly one thing, under its own ticket.
        asked = [e for e in effects if isinstance(e, Asked)]
        assert all(e.ticket == state.ticket for e in asked)
        if state.ticket > before.ticket and state.stage is not Stage.IDLE:
            assert len(asked) == 1
        # The active version changes only by a commit, or because the disk says so.
        if state.active != before.active:
            assert isinstance(event, (Committed, Restarted))
        if state.stage is not Stage.IDLE:
            assert state.stage is Stage.ROLLING_BACK or state.order is not None
        else:
            assert state.waiting is None or state.held, "at rest only a hold lets an order wait"
        # What has ended leaves nothing behind, and what goes on or waits loses nothing.
        at_rest = state.stage is Stage.IDLE and state.waiting is None
        cleans = [effect for effect in effects if isinstance(effect, Clean)]
        assert len(cleans) <= at_rest
        if at_rest and state.ended != before.ended:
            assert cleans
        # No hold is broken, and nothing that runs already is installed again.
        for effect in effects:
            if isinstance(effect, Fetch) and before.stage is Stage.IDLE:
                assert not state.held
            if isinstance(effect, (Fetch, StageFiles, Switch)):
                assert effect.order.digest != state.active
            if isinstance(effect, Report):
                if effect.phase == "held" and effect.order in begun:
                    begun.remove(effect.order)
                if effect.phase == "accepted":
                    assert effect.order not in begun, "an order is begun once"
                    begun.append(effect.order)
                if effect.phase in TERMINAL_PHASES and not isinstance(event, Restarted):
                    assert (effect.order, effect.phase) not in ended
                    ended.add((effect.order, effect.phase))
            disk.take(effect)
        assert msgspec.json.decode(msgspec.json.encode(state), type=UpdateState) == state


def _taken_as(event: Event, state: UpdateState) -> type[Event]:
    if isinstance(event, Ordered) and state.stage is not Stage.IDLE:
        return Superseded
    return type(event)


def test_the_machine_is_pure() -> None:
    """No decision reads a clock, a file or a random number: its modules import none of them."""
    import ast
    import inspect

    from edge_agent.update import answers, moves, restarts, trial

    for module in (machine, answers, arrivals, moves, restarts, trial):
        imported = {
            name.split(".")[0]
            for node in ast.walk(ast.parse(inspect.getsource(module)))
            for name in (
                [a.name for a in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        assert imported <= {
            "__future__", "collections", "typing", "msgspec", "math", "edge_agent", "edge_contract",
        }  # fmt: skip
