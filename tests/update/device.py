"""A device around the real journal, machine, slots and manager; network and model are simulated.

Nothing happens by itself: slow work waits in ``pending`` until ``pump`` does it, so a test can cut
the power between any two steps.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from edge_agent.update.content import needed_layers
from edge_agent.update.effects import Hook, Notice
from edge_agent.update.events import (
    Boot,
    Event,
    FetchDone,
    FetchFailed,
    HookAnswer,
    SelfTestFailed,
    SelfTestPassed,
    Switched,
    SwitchFailed,
)
from edge_agent.update.executor import Ports
from edge_agent.update.journal import Journal
from edge_agent.update.manager import UpdateManager
from edge_agent.update.order import Order
from edge_agent.update.pointer import BOOT_FILE, load_pointer
from edge_agent.update.readiness import Readiness
from edge_agent.update.slot_files import Slot
from edge_agent.update.slots import Slots
from edge_agent.update.state import Stage
from edge_contract.digest import hex_of
from edge_contract.layout import write_durably
from edge_contract.manifest import decode_manifest
from edge_contract.messages import Phase
from edge_contract.model import decode_model_manifest
from tests.update.bundles import HARDWARE, Version, whole_digest


class Died(BaseException):
    """The simulated process ended without a word."""


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def monotonic_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return 1.7e9 + self.now_s


class Device:
    """One run of the agent on a state directory. A restart is a new ``Device`` on the same one.

    Args:
        state_dir: exists.
        fleet: every version that can be fetched.
        clock: shared by the runs of one device.
        answers: what each hook says; "ok" where it is not named.
        readiness: the device's conditions; always ready where there is none.
    """

    def __init__(
        self,
        state_dir: Path,
        fleet: Mapping[str, Version],
        clock: Clock,
        answers: dict[Hook, str] | None = None,
        readiness: Readiness | None = None,
    ) -> None:
        self.state_dir = state_dir
        self.fleet = fleet
        self.clock = clock
        self.answers = answers if answers is not None else {}
        self.pending: deque[Callable[[], Event | None]] = deque()
        self.running = ""
        self.has_run: list[str] = []
        self.fetched: list[str] = []
        self.staged_count = 0
        self.hook_facts: list[dict[str, str]] = []
        self.told: list[dict[str, str]] = []
        self.reports: list[tuple[int, str, str]] = []
        self.alarms: list[str] = []
        self.hear: Callable[[Order, Phase, str], None] = lambda order, phase, reason: None
        self.journal = Journal(state_dir / "update" / "journal", clock.wall_s)
        self.slots = Slots(state_dir, HARDWARE)
        ports = Ports(
            fetcher=self, tester=self, host=self, hooks=_Hooks(self), sink=self, aside=self
        )
        self.manager = UpdateManager(
            self.journal, self.slots, ports, clock.monotonic_s, readiness=readiness
        )

    # --- the ports -------------------------------------------------------------------------------

    def start_fetch(self, ticket: int, order: Order) -> None:
        def fetch() -> Event:
            version = self.fleet.get(order.digest)
            if version is None:
                return FetchFailed(ticket, "no such bundle")
            try:
                self._fetch(order, version)
            except OSError as error:
                return FetchFailed(ticket, f"cannot keep a blob: {error}")
            return FetchDone(ticket)

        self.pending.append(fetch)

    def _fetch(self, order: Order, version: Version) -> None:
        (self.state_dir / "blobs").mkdir(exist_ok=True)
        manifest = decode_manifest(version.blobs[order.digest], where="fetched")
        about = version.blobs[manifest.layer("model.json").digest]
        layers = needed_layers(manifest, decode_model_manifest(about, where="fetched"), HARDWARE)
        for digest in (order.digest, *(layer.digest for layer in layers)):
            if not self.blob(digest).exists():
                write_durably(self.blob(digest), version.blobs[digest])
                self.fetched.append(digest)

    def cancel(self) -> None:
        return

    def blob(self, digest: str) -> Path:
        path = self.state_dir / "blobs" / hex_of(digest)
        return path if path.exists() else self.slots.blob(digest) or path

    def clean(self) -> None:
        for path in (self.state_dir / "blobs").glob("*"):
            path.unlink()

    def start_self_test(self, ticket: int, slot: Slot, order: Order) -> None:
        def test() -> Event:
            behaviour = self._behaviour(slot)
            if behaviour == "wrong":
                return SelfTestFailed(ticket, "golden vectors differ: 3 of 8 rows")
            return SelfTestPassed(ticket)

        self.pending.append(test)

    def start_switch(self, ticket: int, slot: Slot | None) -> None:
        if slot is not None:
            pointer = load_pointer(self.state_dir / BOOT_FILE)
            assert pointer is not None
            known = (pointer.active_digest, pointer.trial_digest)
            assert slot.digest in known, "asked to run what the disk does not know of"

        def switch() -> Event:
            if slot is not None and self._behaviour(slot) == "dies":
                self.has_run.append(slot.digest)
                raise Died
            if slot is not None and self._behaviour(slot) == "unloadable":
                return SwitchFailed(ticket, "the runtime refuses the model")
            self.running = slot.digest if slot else ""
            if slot:
                self.has_run.append(slot.digest)
            return Switched(ticket)

        self.pending.append(switch)

    def forget_others(self) -> None:
        return

    def report(self, order: Order, phase: Phase, reason: str) -> None:
        self.reports.append((order.seq, phase, reason))
        self.hear(order, phase, reason)

    def alarm(self, text: str) -> None:
        self.alarms.append(text)

    def start(self, work: Callable[[], Event | None]) -> None:
        self.pending.append(work)

    # --- driving it ------------------------------------------------------------------------------

    def boot(self, boot: Boot = "clean") -> Device:
        """Start the agent."""
        self.manager.start(boot)
        return self

    def off(self) -> None:
        """The process is gone."""
        self.journal.close()

    def pump(self) -> bool:
        """Do one piece of waiting work; False where there is none."""
        if not self.pending:
            return False
        event = self.pending.popleft()()
        if event is not None:
            self.manager.handle(event)
        return True

    def second(self) -> None:
        """A second passes: frames are answered, the clocks are looked at."""
        self.clock.now_s += 1.0
        for _ in range(10):
            if self.running:
                slow = self.fleet[self.running].behaviour == "slow"
                self.manager.observe(self.running, 100.0 if slow else 10.0, True)
        self.manager.tick(self.clock.now_s, self.clock.wall_s())

    def settle(self, *, until: Stage = Stage.IDLE, rounds: int = 400) -> Device:
        """Go on until the machine comes to rest in ``until`` with nothing pending."""
        for _ in range(rounds):
            if self.manager.state.stage is until and (until is not Stage.IDLE or not self.pending):
                return self
            if not self.pump():
                self.second()
        raise AssertionError(f"still in {self.manager.state.stage} after {rounds} rounds")

    def phases(self, seq: int) -> list[str]:
        """What the fleet was told about one order."""
        return [phase for s, phase, _ in self.reports if s == seq]

    def reason(self, seq: int) -> str:
        """The last reason that the fleet was told about one order."""
        return next(reason for s, _, reason in reversed(self.reports) if s == seq)

    def _behaviour(self, slot: Slot) -> str:
        """Read the slot as a model loader would; it must be whole and of one piece."""
        assert whole_digest(slot.directory.parent) == slot.digest, f"slot {slot.name} is not whole"
        weights = (slot.directory / f"{HARDWARE}.onnx").read_bytes().decode().split()
        assert weights[1] == slot.version
        return weights[0]


class _Hooks:
    """The device's hooks, answered from ``Device.answers``."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def start_hook(self, ticket: int, hook: Hook, facts: Mapping[str, str]) -> None:
        device = self._device
        device.hook_facts.append(dict(facts))

        def ask() -> Event:
            word = device.answers.get(hook, "ok")
            assert word in ("ok", "refuse", "later")
            return HookAnswer(ticket, word, f"hook {hook} says {word}")  # type: ignore[arg-type]

        device.pending.append(ask)

    def cancel(self) -> None:
        return

    def tell(self, notice: Notice, facts: Mapping[str, str]) -> None:
        self._device.told.append({**facts, "STATE": notice})
