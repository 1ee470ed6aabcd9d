"""The update manager: journal, machine, slots and ports put together. One loop owns it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from edge_agent.errors import AgentError
from edge_agent.update.effects import AskAgain, Asked, Effect, Fact, Record, RunHook, Watch
from edge_agent.update.events import (
    Boot,
    DeadlinePassed,
    Event,
    FetchWaits,
    Held,
    HookAnswer,
    Released,
    Restarted,
    SlotChecked,
    StageFailed,
    SwitchFailed,
    TrialVerdict,
)
from edge_agent.update.executor import BACKGROUND, Executor, Ports
from edge_agent.update.journal import Journal
from edge_agent.update.latency import Baseline, Latency
from edge_agent.update.machine import step
from edge_agent.update.order import Order
from edge_agent.update.readiness import Readiness, Wait
from edge_agent.update.slot_files import Slot
from edge_agent.update.slots import Slots
from edge_agent.update.state import Stage, UpdateState, deadline_s
from edge_agent.update.trial import TrialJudge

LATER_S = 60.0
FULL_MAX_S = 3600.0
"""Between two tries to fill a slot on a disk that was full: doubled from ``LATER_S`` to this."""
"""How long after "later" a hook is asked again."""

_UNDOABLE = frozenset(Stage) - {Stage.COMMITTING, Stage.ROLLING_BACK}
_GATED = frozenset({"pre-install", "post-install"})
"""The device must be ready before these are asked: what follows them writes, or switches."""
_JUDGED = frozenset({Stage.TRIAL, Stage.HEALTH})


class UpdateManager:
    """Carries out orders, one at a time, and can be cut off at any instant.

    Every method is called by one loop; ports post events into that loop's queue, which hands them
    to ``handle``. No method waits for a network, a hook, a model or a copy.

    Args:
        journal: opened, so replayed.
        slots: not yet recovered.
        ports: the rest of the agent.
        monotonic_s: seconds that never go back.
        readiness: whether the device is ready for a step; None where nothing is asked of it.
        later_s: how long after "later" a hook, or the readiness, is asked again at the latest.
    """

    def __init__(
        self,
        journal: Journal,
        slots: Slots,
        ports: Ports,
        monotonic_s: Callable[[], float],
        *,
        readiness: Readiness | None = None,
        later_s: float = LATER_S,
    ) -> None:
        self.slots = slots
        self._journal = journal
        self._ports = ports
        self._monotonic_s = monotonic_s
        self._readiness = readiness
        self._later_s = later_s
        self._baseline = Baseline()
        self._trial_latency: Latency | None = None
        self._executor = Executor(
            slots,
            ports,
            baseline=lambda: self._baseline.latency,
            trial_latency=lambda: self._trial_latency,
        )
        self._inbox: deque[Event] = deque()
        self._handling = False
        self._undone: list[Asked] = []
        self._ask_again: tuple[float, RunHook] | None = None
        self._judge: TrialJudge | None = None
        self._judge_digest = ""
        self._left_unwritten = False
        self._rest_s = later_s
        self._full_count = 0
        self._stage_began_s = monotonic_s()
        self.blocked = ""
        """Why the next step cannot be taken now (the disk), or ""."""
        self.waits_for = ""
        """What the update waits for: the device's conditions, room for what is fetched, or a hook
        that said "later"."""

    @property
    def state(self) -> UpdateState:
        """What the journal says."""
        return self._journal.state

    def start(self, boot: Boot) -> None:
        """Take up what the last run of the agent left. Call it once, before anything else.

        Args:
            boot: how the last run ended (``boot.BootMarker`` tells).

        Raises:
            AgentError, OSError: the state directory cannot be read.
        """
        found = self.slots.recover(self.state.active, announced=boot == "clean")
        for note in (*self._journal.notes, *found.notes):
            self._ports.sink.alarm(note)
        active = self.slots.active()
        self._stage_began_s = self._monotonic_s()
        self.handle(
            Restarted(
                boot=boot,
                active=active.digest if active else "",
                active_slot=active.name if active else "",
                active_version=active.version if active else "",
                trial=self.slots.pointer.trial_digest,
                note=found.active_note,
                trial_lost=found.trial_lost,
            )
        )
        if self._inbox:
            # The disk refuses the journal. That stops the update, never the version that runs.
            self._ports.host.start_switch(BACKGROUND, active)

    def handle(self, event: Event) -> None:
        """Take one step: decide, write it down, do it. Events that come meanwhile wait.

        A disk that refuses the journal stops the update, and nothing else: the event is kept and
        tried again at every ``tick``.
        """
        self._inbox.append(event)
        self._drain()

    def tick(self, now_s: float, wall_s: float | None = None) -> None:
        """Look at the clocks and at the trial; call it about once a second.

        Args:
            now_s: monotonic seconds.
            wall_s: unix seconds that are known to have passed (an order's deadline is held against
            them); None where nothing is known.
        """
        self._drain()
        if self._inbox:
            return
        undone, self._undone = self._undone, []
        for effect in undone:
            if effect.ticket == self.state.ticket:
                self._perform(effect)
        if self._ask_again is not None and now_s >= self._ask_again[0]:
            question, self._ask_again = self._ask_again[1], None
            if question.ticket == self.state.ticket:
                # A newer order for the same version may have taken the place of the one that waits.
                order = self.state.order or question.order
                self._perform(RunHook(question.ticket, question.hook, order))
        self._hear_judge(now_s)
        overdue = self._overdue(now_s, wall_s)
        if overdue:
            self.handle(DeadlinePassed(overdue))

    def observe(self, digest: str, infer_ms: float, ok: bool) -> None:
        """One answered frame, by the version with ``digest``.

        It is the evidence of a trial, or the baseline for the next one.
        """
        if self._judge is not None and digest == self._judge_digest:
            self._judge.observe(infer_ms, ok)
        elif ok and digest == self.state.active:
            if self._judge is not None:
                self._judge.observe_control(infer_ms)
            self._baseline.observe(infer_ms)

    def hold(self) -> None:
        """No updates for now; one that is switched in already is judged to its end."""
        self.handle(Held())

    def release(self) -> None:
        """Let updates come again; one that waited begins."""
        self.handle(Released())

    def status(self) -> dict[str, object]:
        """Plain facts for ``edge-agent status`` and the device's state message."""
        state, judge = self.state, self._judge
        latency = judge.latency if judge else None
        return {
            "stage": state.stage.value,
            "held": state.held,
            "blocked": self.blocked,
            "waits_for": self.waits_for,
            "order": _order_facts(state.order),
            "waiting": _order_facts(state.waiting),
            "desired_epoch": state.seen[0],
            "desired_seq": state.seen[1],
            "active": _slot_facts(self.slots.active()),
            "trial": _slot_facts(self.slots.trial()),
            "fallback": _slot_facts(self.slots.fallback()),
            "trial_frames": judge.frames if judge else 0,
            "trial_errors": judge.errors if judge else 0,
            "trial_latency_p95_ms": latency.p95_ms if latency else None,
            "trial_limit_ms": judge.limit_ms if judge else None,
            "restarts": state.crashes,
            "ended": _order_facts(state.ended.order) if state.ended else None,
            "ended_phase": state.ended.phase if state.ended else "",
            "ended_reason": state.ended.reason if state.ended else "",
        }

    # --- inside ----------------------------------------------------------------------------------

    def _drain(self) -> None:
        if self._handling:
            return
        self._handling = True
        try:
            while self._inbox and self._take(self._inbox[0]):
                self._inbox.popleft()
        finally:
            self._handling = False

    def _take(self, event: Event) -> bool:
        """Whether the event is dealt with; False where the disk refused the journal."""
        if isinstance(event, SwitchFailed) and event.ticket == BACKGROUND:
            self._ports.sink.alarm(f"the active version does not run: {event.reason}")
            return True
        before = self.state
        if isinstance(event, SlotChecked):
            if event.ticket == before.ticket and before.order is not None:
                answer = self._executor.switch(event, before.order)
                if answer is not None:
                    self.handle(answer)
            return True
        if isinstance(event, FetchWaits):
            if event.ticket == before.ticket:
                self.waits_for = event.reason
            return True
        after, effects = step(before, event)
        facts = [effect.fact for effect in effects if isinstance(effect, Record)]
        if (after != before or facts) and not self._written(event, after, facts):
            self._leave_unwritten(before, after)
            return False
        if after.ticket != before.ticket:
            self._stage_began_s = self._monotonic_s()
            self._undone, self._ask_again, self.waits_for = [], None, ""
        if after.order != before.order:
            self._full_count = 0
        self._rest_s = self._later_s
        if isinstance(event, StageFailed) and event.full and after.ticket != before.ticket:
            self.waits_for = event.reason
            # A file system that promises room and has none is written to with every try.
            self._rest_s = max(self._later_s, min(self._later_s * 2**self._full_count, FULL_MAX_S))
            self._full_count = min(self._full_count + 1, 16)
        elif isinstance(event, HookAnswer) and event.answer == "later":
            self.waits_for = event.reason
        if after.stage not in _JUDGED:
            self._judge = None
        if after.active != before.active:
            self._baseline.clear()
        for effect in effects:
            if not isinstance(effect, Record):
                self._perform(effect)
        return True

    def _written(self, event: Event, state: UpdateState, facts: list[Fact]) -> bool:
        try:
            self._journal.append(type(event).__name__, state, facts)
        except AgentError as error:
            self.blocked = error.message
            return False
        self.blocked, self._left_unwritten = "", False
        return True

    def _leave_unwritten(self, before: UpdateState, after: UpdateState) -> None:
        """A trial is over, and the disk refuses to have it written: nothing moves on, but from here
        the old version answers. A restart would find the trial, and judge it anew."""
        over = after.stage is Stage.ROLLING_BACK is not before.stage
        if over and not self._left_unwritten:
            self._left_unwritten = True
            self._ports.host.start_switch(BACKGROUND, self.slots.active())

    def _perform(self, effect: Effect) -> None:
        if isinstance(effect, Watch):
            self._watch(effect.order)
        elif isinstance(effect, AskAgain):
            question = RunHook(effect.ticket, effect.hook, effect.order)
            self._ask_again = (self._monotonic_s() + self._rest_s, question)
        elif isinstance(effect, RunHook) and (wait := self._wait(effect)):
            self._ask_later(effect, wait.opens_in_s)
        else:
            try:
                answer = self._executor.perform(effect)
            except OSError as error:
                self._not_done(effect, error)
                return
            if isinstance(effect, Asked):
                self.blocked = ""
            if answer is not None:
                self.handle(answer)

    def _ask_later(self, question: RunHook, opens_in_s: float) -> None:
        """Ask after a while, or when a window opens, for it may be open for a minute only."""
        self._ask_again = (self._monotonic_s() + min(self._later_s, opens_in_s), question)

    def _wait(self, question: RunHook) -> Wait | None:
        """Why the device is not ready for what follows this hook; then the hook is not asked."""
        if self._readiness is None or question.hook not in _GATED:
            return None
        order = question.order
        needed_bytes = self._executor.needed_bytes(order) if question.hook == "pre-install" else 0
        try:
            wait = self._readiness.wait(order, needed_bytes)
        except OSError as error:
            wait = Wait(f"the state directory cannot be looked at: {error}")
        self.waits_for = wait.why if wait else ""
        return wait

    def _not_done(self, effect: Effect, error: OSError) -> None:
        """A stage waits for an answer, so its effect is tried again; the others are dropped."""
        self.blocked = f"{type(effect).__name__}: {error}"
        if isinstance(effect, Asked):
            self._undone.append(effect)
        else:
            self._ports.sink.alarm(self.blocked)

    def _watch(self, order: Order) -> None:
        judge = self._judge
        if judge and (judge.spec, self._judge_digest) == (order.health, order.digest):
            return
        self._judge = TrialJudge(
            order.health,
            self.slots.pointer.trial_baseline,
            started_s=self._monotonic_s(),
            restarts=self.state.crashes,
        )
        self._judge_digest = order.digest
        self._trial_latency = None

    def _hear_judge(self, now_s: float) -> None:
        judge = self._judge
        verdict = judge.verdict(now_s) if judge else None
        if judge is None or verdict is None:
            return
        self._trial_latency = judge.latency
        if verdict.healthy and self.state.stage is Stage.HEALTH:
            return
        self.handle(TrialVerdict(self.state.ticket, verdict.healthy, verdict.reason))

    def _overdue(self, now_s: float, wall_s: float | None) -> str:
        state = self.state
        lasted_s, limit_s = now_s - self._stage_began_s, deadline_s(state)
        why = f"; it waited: {self.waits_for}" if self.waits_for else ""
        if lasted_s >= limit_s:
            return f"stage {state.stage.value} lasted {lasted_s:.0f} s, limit {limit_s:.0f} s{why}"
        order = state.order or state.waiting
        if order is None or wall_s is None or state.stage not in _UNDOABLE:
            return ""
        if 0 < order.deadline_ts <= wall_s:
            late_s = wall_s - order.deadline_ts
            where = f"in stage {state.stage.value}{why}"
            return f"the order's deadline passed {late_s:.0f} s ago, {where}"
        return ""


def _order_facts(order: Order | None) -> dict[str, object] | None:
    if order is None:
        return None
    return {
        "epoch": order.epoch,
        "seq": order.seq,
        "digest": order.digest,
        "line": order.line,
        "version": order.version,
        "rollout": order.rollout,
    }


def _slot_facts(slot: Slot | None) -> dict[str, object] | None:
    if slot is None:
        return None
    return {"slot": slot.name, "digest": slot.digest, "line": slot.line, "version": slot.version}
