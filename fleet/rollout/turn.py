"""One step while it is worked out: the state as far as it has come, and the effects so far."""

from __future__ import annotations

from msgspec.structs import replace

from fleet.rollout import verdict
from fleet.rollout.events import (
    AskDevice,
    Effect,
    Finished,
    Log,
    ReturnDevice,
    WithdrawDevice,
)
from fleet.rollout.state import BAD, DeviceRecord, Outcome, RolloutState, bucket_of
from fleet.rollout.table import after, stepped


class Turn:
    """Begins with the state before. The devices are copied at the first write to one."""

    def __init__(self, state: RolloutState, now_s: float) -> None:
        self.state = replace(state, now_s=max(state.now_s, now_s))
        self.effects: list[Effect] = []
        self._owned = False

    def record(self, device: str) -> DeviceRecord | None:
        """A device of the plan; None for any other."""
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
        epoch, seq = record.number
        self.put(device, replace(record, phase=phase, floor=(epoch, seq + 1)))
        return True

    def move(self, trigger: str) -> None:
        """Take the table's move of the whole rollout.

        Raises:
            FleetError: there is none.
        """
        status = after(self.state.status, trigger, self.state.plan.rollout_id)
        self.state = replace(self.state, status=status)

    def say(self, sentence: str, outcome: Outcome = "") -> None:
        """Say why it stands where it stands; an outcome of before is over."""
        self.state = replace(self.state, sentence=sentence, outcome=outcome)
        self.effects.append(Log(sentence))

    def finish(self, sentence: str, outcome: Outcome) -> None:
        """Come to rest."""
        self.say(sentence, outcome)
        self.effects.append(Finished(outcome, sentence))

    def open_wave(self, wave: int) -> None:
        """Ask the devices of a wave."""
        plan = self.state.plan
        self.state = replace(self.state, wave=wave, wave_since_s=self.state.now_s)
        names = [name for name in plan.waves[wave] if self.take(name, "wave opens")]
        self.say(f"Wave {wave + 1} of {len(plan.waves)}: asked {verdict.in_devices(len(names))}")
        self.effects += [AskDevice(name, plan.digest_to) for name in names]

    def withdraw_uncommitted(self) -> None:
        """No ``desired`` may go on naming a version that was aborted, those of failed devices
        too."""
        for name, record in list(self.state.devices.items()):
            if self.take(name, "withdraw") or record.phase in BAD:
                self.effects.append(WithdrawDevice(name, record.digest_from))

    def send_back(self, device: str) -> None:
        """Return a device to what it ran before it was asked."""
        record = self.state.devices[device]
        if self.take(device, "return"):
            self.effects.append(ReturnDevice(device, record.digest_from))
