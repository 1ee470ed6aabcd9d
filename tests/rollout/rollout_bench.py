"""A small fleet and a manager to drive the engine with, shared by the tests of this folder."""

from __future__ import annotations

from fleet.rollout import Candidate, Gate, RolloutPlan, make_plan, new_rollout, step
from fleet.rollout.events import (
    AskDevice,
    DeviceFacts,
    DeviceOffline,
    DeviceOnline,
    DeviceReport,
    Effect,
    Event,
    Finished,
    Log,
    ReturnDevice,
    Signed,
    Start,
    Tick,
    WithdrawDevice,
)
from fleet.rollout.state import Phase

OLD = "sha256:" + "a" * 64
NEW = "sha256:" + "b" * 64
OTHER = "sha256:" + "c" * 64


def candidates(count: int, hardware: str = "pi4", online: bool = True) -> list[Candidate]:
    """Devices d0, d1, … that all run OLD, as told by ``desired`` 1."""
    return [
        Candidate(
            f"d{i}", hardware, "digits", digest=OLD, desired_epoch=1, desired_seq=1, online=online
        )
        for i in range(count)
    ]


def plan_of(count: int, waves: tuple[int, ...] = (1,), **settings: object) -> RolloutPlan:
    """A plan for ``count`` devices; what is no plan setting is a setting of the gate."""
    named = {k: settings.pop(k) for k in ("on_abort", "seed", "window") if k in settings}
    return make_plan(
        "r1",
        "digits",
        "2.0.0",
        NEW,
        candidates(count),
        hardware=["pi4"],
        counts=waves,
        gate=Gate(**settings),  # type: ignore[arg-type]
        **named,  # type: ignore[arg-type]
    )


class Drive:
    """Feeds events, signs every effect with the device's next number, keeps all effects."""

    def __init__(self, plan: RolloutPlan, start: bool = True) -> None:
        self.plan = plan
        self.state = new_rollout(plan)
        self.now_s = 1000.0
        self.effects: list[Effect] = []
        self.signed = {device.device: device.desired_seq for device in plan.devices}
        if start:
            self.feed(Start(now_s=self.now_s, who="ann"))

    def feed(self, event: Event) -> list[Effect]:
        self.state, effects = step(self.state, event)
        self.effects += effects
        for effect in effects:
            if isinstance(effect, AskDevice | ReturnDevice | WithdrawDevice):
                self.signed[effect.device] += 1
                seq = self.signed[effect.device]
                self.feed(Signed(now_s=self.now_s, device=effect.device, number=(1, seq)))
        return list(effects)

    def report(
        self,
        device: str,
        phase: Phase,
        reason: str = "",
        digest: str = NEW,
        seq: int | None = None,
    ) -> list[Effect]:
        return self.feed(
            DeviceReport(
                now_s=self.now_s,
                device=device,
                phase=phase,
                digest=digest,
                number=(1, self.signed[device] if seq is None else seq),
                reason=reason,
            )
        )

    def commit(self, *devices: str) -> None:
        for device in devices:
            self.report(device, Phase.COMMITTED)

    def facts(
        self, device: str, digest: str = OLD, seq: int | None = None, opens_at_s: float = 0.0
    ) -> list[Effect]:
        seq = self.signed[device] if seq is None else seq
        return self.feed(
            DeviceFacts(
                now_s=self.now_s,
                device=device,
                digest=digest,
                number=(1, seq),
                opens_at_s=opens_at_s,
            )
        )

    def online(self, *devices: str) -> None:
        for device in devices:
            self.feed(DeviceOnline(now_s=self.now_s, device=device))

    def offline(self, *devices: str) -> None:
        for device in devices:
            self.feed(DeviceOffline(now_s=self.now_s, device=device))

    def wait(self, seconds: float) -> list[Effect]:
        self.now_s += seconds
        return self.feed(Tick(now_s=self.now_s))

    @property
    def asked(self) -> list[str]:
        return [e.device for e in self.effects if isinstance(e, AskDevice)]

    @property
    def withdrawn(self) -> list[tuple[str, str]]:
        return [(e.device, e.digest) for e in self.effects if isinstance(e, WithdrawDevice)]

    @property
    def returned(self) -> list[tuple[str, str]]:
        return [(e.device, e.digest) for e in self.effects if isinstance(e, ReturnDevice)]

    @property
    def finished(self) -> list[Finished]:
        return [e for e in self.effects if isinstance(e, Finished)]

    @property
    def log(self) -> list[str]:
        return [e.text for e in self.effects if isinstance(e, Log)]

    def wave(self, number: int) -> tuple[str, ...]:
        """The devices of wave ``number``, counted from 1."""
        return self.plan.waves[number - 1]

    def phase(self, device: str) -> Phase:
        return self.state.devices[device].phase
