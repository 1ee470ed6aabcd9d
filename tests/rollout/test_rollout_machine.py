"""A fleet, an operator and a network that do anything in any order: the promises hold throughout.

The machine knows by itself what each device was told last and what it truly runs, so that nothing
here is checked against the engine's own view alone.
"""

from __future__ import annotations

from hypothesis import Phase as Run
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from rollout_bench import NEW, OLD, OTHER

from fleet.errors import FleetError
from fleet.rollout import (
    Candidate,
    Gate,
    decode_state,
    encode_state,
    make_plan,
    new_rollout,
    step,
)
from fleet.rollout.events import (
    Abort,
    AskDevice,
    DeviceFacts,
    DeviceOffline,
    DeviceOnline,
    DeviceReport,
    Event,
    Exclude,
    Finished,
    Pause,
    Promote,
    Restored,
    Resume,
    ReturnDevice,
    Rollback,
    Signed,
    Start,
    Tick,
    WithdrawDevice,
)
from fleet.rollout.state import BAD, RANK, REPORTABLE, Number, Phase, Status, Tally, bucket_of
from fleet.rollout.verdict import phase_counts

NAMES = [f"d{i}" for i in range(8)]
TERMINAL = {Phase.COMMITTED, *BAD, Phase.WITHDRAWN, Phase.RETURNED, Phase.RETURN_FAILED}
TERMINAL |= {Phase.EXCLUDED, Phase.PENDING}
device = st.sampled_from(NAMES)
lever = st.integers(0, 5)
"""The commands that end a rollout are pulled at 0 only, or few runs would get far."""
path = [Phase.ACCEPTED, Phase.DOWNLOADING, Phase.STAGED, Phase.SELF_TEST, Phase.TRIAL]


class Rollouts(RuleBasedStateMachine):
    """Each device in truth: what it runs, and the (number, digest) that it was told last."""

    @initialize(
        count=st.integers(2, 8),
        sizes=st.lists(st.integers(1, 3), min_size=1, max_size=3),
        share=st.sampled_from([None, 0.0, 0.25, 0.5, 1.0]),
        limit=st.sampled_from([None, 0, 1, 2]),
        quorum=st.sampled_from([0.0, 0.5, 1.0]),
        soak_s=st.sampled_from([0.0, 50.0]),
        on_abort=st.sampled_from(["halt", "return"]),
        firsts=st.lists(st.sampled_from([OLD, OTHER, ""]), min_size=8, max_size=8),
        started=st.sampled_from([True, True, True, False]),
    )
    def plan(self, count, sizes, share, limit, quorum, soak_s, on_abort, firsts, started):
        gate = Gate(
            max_failures_share=share,
            max_failures_count=limit,
            quorum_share=quorum,
            soak_s=soak_s,
            wave_deadline_s=300,
        )
        before = dict(zip(NAMES[:count], firsts, strict=False))
        fleet = [
            Candidate(
                name, "pi4" if i % 2 else "orin", "digits", digest=before[name], desired_epoch=1
            )
            for i, name in enumerate(NAMES[:count])
        ]
        planned = make_plan(
            "r1",
            "digits",
            "2.0.0",
            NEW,
            fleet,
            hardware=["pi4", "orin"],
            counts=sizes,
            gate=gate,
            on_abort=on_abort,
        )
        self.state = new_rollout(planned)
        self.before = before
        self.runs = dict(before)
        self.told = {name: ((1, 0), before[name]) for name in before}
        self.epoch = 1
        self.now_s = 0.0
        self.sent: list[Event] = []
        self.asked: dict[str, int] = {}
        self.promoted: set[int] = set()
        self.failed: set[str] = set()
        self.forgiven: set[str] = set()
        self.excluded: set[str] = set()
        self.halted = False
        if started:
            self.start()

    def feed(self, event: Event) -> list[object]:
        """One step, with what must hold of every single one."""
        before = self.state
        frozen = encode_state(before)
        self.state, effects = step(before, event)
        assert encode_state(before) == frozen, "a step changed the state that it was given"
        again = decode_state(encode_state(self.state))
        assert again == self.state
        assert step(decode_state(frozen), event) == (self.state, effects), "a step is a function"
        opened = self.state.wave > before.wave
        for effect in effects:
            if isinstance(effect, AskDevice):
                self.may_be_asked(before, event, effect.device, opened)
            if isinstance(effect, ReturnDevice):
                assert self.before[effect.device] == effect.digest != ""
            if isinstance(effect, WithdrawDevice):
                assert effect.device in self.asked
            if isinstance(effect, Finished):
                assert effect.sentence == self.state.sentence
        for effect in effects:
            if isinstance(effect, AskDevice | ReturnDevice | WithdrawDevice):
                epoch, seq = self.told[effect.device][0]
                number = (self.epoch, seq + 1 if epoch == self.epoch else 1)
                self.told[effect.device] = (number, effect.digest)
                self.feed(Signed(now_s=self.now_s, device=effect.device, number=number))
        return list(effects)

    def may_be_asked(self, before, event, name, opened) -> None:
        assert opened, "asked without a wave being opened"
        assert self.state.status is Status.RUNNING, "asked by a rollout that is not running"
        if self.halted or before.status is not Status.RUNNING:
            assert isinstance(event, Start | Resume | Promote), "asked although it was halted"
        assert name not in self.asked, "asked twice"
        assert name not in self.excluded
        wave = next(i for i, wave in enumerate(self.state.plan.waves) if name in wave)
        assert wave <= self.state.wave, "a device of a wave that is not open"
        for earlier in range(wave):
            assert earlier in self.promoted or self.passed(earlier), (
                f"wave {wave + 1} asked, and wave {earlier + 1} had not passed"
            )
        self.asked[name] = wave

    def passed(self, wave: int) -> bool:
        """Whether, by the engine's records but by other arithmetic, a wave shows its quorum."""
        gate = self.state.plan.gate
        members = [n for n in self.state.plan.waves[wave] if n not in self.excluded]
        good = [
            n
            for n in members
            if self.state.devices[n].phase is Phase.COMMITTED and n not in self.failed
        ]
        bad = [n for n in members if n in self.failed - self.forgiven]
        least = max(1, gate.quorum_share * len(members)) if members else 0
        if gate.max_failures_share is None and gate.max_failures_count is None:
            few = not bad
        else:
            share, count = gate.max_failures_share, gate.max_failures_count
            few = share is None or len(bad) <= share * (len(bad) + len(good))
            few = few and (count is None or len(bad) <= count)
        # A wave that passed before stays passed; only the latest is judged anew.
        return wave < self.state.wave - 1 or (len(good) >= least and few)

    def command(self, event: Event) -> bool:
        before = self.state
        try:
            self.feed(event)
        except FleetError:
            assert self.state is before
            return False
        if isinstance(event, Pause | Restored | Abort | Rollback | Resume | Promote):
            self.halted = isinstance(event, Pause | Restored | Abort | Rollback)
        return True

    def report(self, name: str, phase: Phase, digest: str, number: Number) -> list[object]:
        event = DeviceReport(
            now_s=self.now_s,
            device=name,
            phase=phase,
            digest=digest,
            number=number,
            reason="because",
        )
        self.sent.append(event)
        if (
            phase in BAD
            and digest == NEW
            and self.told.get(name) == (number, NEW)
            and self.state.devices[name].phase in RANK
        ):
            self.failed.add(name)
        return self.feed(event)

    def known(self, name: str) -> bool:
        return name in self.told

    # Operators.

    @rule()
    def start(self):
        self.command(Start(now_s=self.now_s, who="ann"))

    @rule()
    def pause(self):
        self.command(Pause(now_s=self.now_s, who="ann"))

    @rule(acknowledge=st.booleans())
    def resume(self, acknowledge):
        forgiven = set(self.forgiven)
        if acknowledge and self.state.status is Status.PAUSED:
            self.forgiven |= self.failed
        if not self.command(Resume(now_s=self.now_s, who="ann", acknowledge=acknowledge)):
            self.forgiven = forgiven

    @rule(everything=st.booleans())
    def promote(self, everything):
        had = set(self.promoted)
        last = len(self.state.plan.waves) if everything else self.state.wave + 1
        self.promoted |= set(range(max(self.state.wave, 0), last))
        if not self.command(Promote(now_s=self.now_s, who="ann", everything=everything)):
            self.promoted = had

    @rule(lever=lever)
    def abort(self, lever):
        if lever == 0:
            self.command(Abort(now_s=self.now_s, who="ann", reason="enough"))

    @rule(lever=lever)
    def rollback(self, lever):
        if lever == 0:
            self.command(Rollback(now_s=self.now_s, who="ann"))

    @rule(lever=lever)
    def a_backup_is_restored(self, lever):
        if lever == 0:
            self.command(Restored(now_s=self.now_s, who="ann"))

    @rule(lever=lever)
    def an_epoch_begins(self, lever):
        """From here on the numbers of orders begin again."""
        self.epoch += lever == 0

    @precondition(lambda self: len(self.excluded) < 2)
    @rule(name=device)
    def exclude(self, name):
        again = name in self.excluded
        self.excluded.add(name)
        if not self.command(Exclude(now_s=self.now_s, who="ann", device=name)):
            self.excluded -= set() if again else {name}
        else:
            assert not again, "excluded twice"

    # Time and the network.

    @rule(seconds=st.sampled_from([-10.0, 1.0, 60.0, 400.0]))
    def wait(self, seconds):
        self.now_s += seconds
        self.feed(Tick(now_s=self.now_s))

    @rule(names=st.lists(device, min_size=1, max_size=6, unique=True), online=st.booleans())
    def connection(self, names, online):
        kind = DeviceOnline if online else DeviceOffline
        for name in names:
            self.feed(kind(now_s=self.now_s, device=name))

    @precondition(lambda self: self.sent)
    @rule(data=st.data())
    def an_old_message_comes_again(self, data):
        self.feed(data.draw(st.sampled_from(self.sent)))

    # Devices.

    @rule(name=device, steps=st.integers(1, 5), skip=st.integers(0, 4), backwards=st.booleans())
    def progress(self, name, steps, skip, backwards):
        if not self.known(name):
            return
        number, digest = self.told[name]
        told = path[skip : skip + steps]
        for phase in reversed(told) if backwards else told:
            self.report(name, phase, digest, number)

    @rule(names=st.lists(device, min_size=1, max_size=4, unique=True))
    def several_obey(self, names):
        for name in names:
            self.obey(name)

    @rule(name=device)
    def obey(self, name):
        """Do what the ``desired`` says and report it."""
        if not self.known(name) or not self.told[name][1]:
            return
        number, digest = self.told[name]
        self.runs[name] = digest
        self.report(name, Phase.COMMITTED, digest, number)

    @rule(name=device)
    def obey_in_silence(self, name):
        """Commit, lose the report, and show it in the retained state."""
        if not self.known(name) or not self.told[name][1]:
            return
        number, digest = self.told[name]
        self.runs[name] = digest
        event = DeviceFacts(now_s=self.now_s, device=name, digest=digest, number=number)
        self.sent.append(event)
        self.feed(event)

    @rule(name=device, how=st.sampled_from(sorted(BAD)))
    def fail(self, name, how):
        if self.known(name):
            self.report(name, how, self.told[name][1], self.told[name][0])

    @rule(name=device)
    def hold(self, name):
        if self.known(name):
            self.report(name, Phase.HELD, self.told[name][1], self.told[name][0])

    @rule(
        name=device,
        phase=st.sampled_from(sorted(REPORTABLE)),
        digest=st.sampled_from([OTHER, "sha256:" + "d" * 64]),
        back=st.integers(0, 3),
    )
    def foreign(self, name, phase, digest, back):
        """Something older, or about another digest; whatever commits, the device then runs."""
        if self.known(name) and digest != self.told[name][1] and digest != self.before[name]:
            before = self.state.tallies
            epoch, seq = self.told[name][0]
            self.report(name, phase, digest, (epoch, max(0, seq - back)))
            assert self.state.tallies == before

    @rule(name=device, phase=st.sampled_from(sorted(REPORTABLE)), back=st.integers(1, 3))
    def late_from_an_earlier_rollout(self, name, phase, back):
        """An answer to an older question about the very digest."""
        if self.known(name):
            before = self.state.tallies
            epoch, seq = self.told[name][0]
            self.report(name, phase, NEW, (epoch, seq - back))
            assert self.state.tallies == before

    @rule(phase=st.sampled_from(sorted(REPORTABLE)))
    def stranger(self, phase):
        before = self.state.devices
        self.report("stranger", phase, NEW, (9, 99))
        assert self.state.devices == before

    # What must hold at any time.

    @invariant()
    def every_device_is_counted_once_and_the_tallies_are_the_devices(self):
        if not hasattr(self, "state"):
            return
        counted = [Tally() for _ in self.state.plan.waves]
        for record in self.state.devices.values():
            name = bucket_of(record)
            tally = counted[record.wave]
            old = {field: getattr(tally, field) for field in Tally.__struct_fields__}
            counted[record.wave] = Tally(**{**old, name: old[name] + 1})
        assert self.state.tallies == tuple(counted)
        shown = phase_counts(self.state)
        assert sum(shown.values()) == len(self.state.plan.devices)

    @invariant()
    def only_devices_of_opened_waves_were_asked(self):
        if not hasattr(self, "state"):
            return
        for name, record in self.state.devices.items():
            if record.phase in RANK:
                assert name in self.asked
                assert record.wave <= self.state.wave
        assert self.state.wave >= 0 or not self.asked

    @invariant()
    def no_desired_names_a_version_that_was_aborted_or_rolled_back(self):
        if not hasattr(self, "state") or self.state.status not in (
            Status.ABORTED,
            Status.ROLLING_BACK,
            Status.RETURN_PAUSED,
            Status.ROLLED_BACK,
        ):
            return
        for name, (_, digest) in self.told.items():
            record = self.state.devices[name]
            if digest == NEW and record.phase is not Phase.EXCLUDED:
                assert record.phase is Phase.COMMITTED
                assert self.state.status is Status.ABORTED or not record.digest_from

    @invariant()
    def more_failures_than_the_gate_bears_never_leave_it_running(self):
        if not hasattr(self, "state"):
            return
        if self.state.status in (Status.RUNNING, Status.PAUSED, Status.COMPLETED):
            gate = self.state.plan.gate
            for wave in self.state.plan.waves:
                bad = (set(wave) & self.failed) - self.forgiven - self.excluded
                assert len(bad) <= gate.limit(len(wave))

    def teardown(self):
        """When all report and time passes, every asked device and the rollout come to rest."""
        if not hasattr(self, "state") or self.state.status is Status.DRAFT:
            return
        for _ in range(2 * len(self.state.plan.waves) + 4):
            if self.state.status is Status.PAUSED:
                self.promote(everything=False)
            if self.state.status is Status.RETURN_PAUSED:
                self.resume(acknowledge=False)
            for name in self.before:
                self.feed(DeviceOnline(now_s=self.now_s, device=name))
                self.obey(name)
            self.wait(400.0)
        for name, record in self.state.devices.items():
            assert record.phase in TERMINAL, (name, record)
        assert self.state.status in (Status.COMPLETED, Status.ABORTED, Status.ROLLED_BACK)
        if self.state.status is Status.COMPLETED:
            assert all(record.phase is not Phase.PENDING for record in self.state.devices.values())
        if self.state.status is Status.ROLLED_BACK:
            for name in self.asked:
                if name not in self.excluded and self.before[name]:
                    assert self.runs[name] != NEW, "left on a version that was rolled back"


TestRollouts = Rollouts.TestCase
TestRollouts.settings = settings(
    max_examples=300,
    stateful_step_count=40,
    deadline=None,
    phases=[Run.explicit, Run.reuse, Run.generate, Run.shrink],  # explaining takes minutes
)
