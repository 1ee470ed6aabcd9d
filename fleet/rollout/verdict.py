"""What a wave's counts mean: pass, fail, insufficient, or wait; and the sentence that says why."""

from __future__ import annotations

from collections import Counter
from enum import Enum, auto

import msgspec

from edge_contract.window import open_for_s
from fleet.rollout.gate import Gate
from fleet.rollout.state import BAD, DeviceRecord, Phase, RolloutState, Tally

_STAGE = {
    Phase.DOWNLOADING: "failed its download",
    Phase.SELF_TEST: "failed its self-test",
    Phase.TRIAL: "broke its health spec in trial",
}


class Judgement(Enum):
    """What the engine does with the open wave."""

    WAIT = auto()
    PASS = auto()
    FAIL = auto()
    INSUFFICIENT = auto()


class FailureGroup(msgspec.Struct, frozen=True):
    """Devices that failed alike: same wave, hardware, step and reason."""

    wave: int
    hardware: str
    step: str
    reason: str
    device_count: int
    devices: tuple[str, ...]


def over_limit(gate: Gate, planned_count: int, tally: Tally) -> bool:
    """Whether a wave shows more failures than it would bear if all the rest succeeded.

    The limit is that of the wave as planned; it is fixed when the plan is saved.
    """
    return tally.failed > gate.limit(planned_count)


def judge_wave(
    gate: Gate,
    planned_count: int,
    tally: Tally,
    soaked_count: int,
    waited_s: float,
    excused_count: int = 0,
) -> Judgement:
    """Judge the open wave.

    A wave is over when nobody connected is still busy, or at its deadline. Only then is the
    share of failures taken over those who *answered*, so that devices that are offline dilute
    nothing. A wave that is over passes when its quorum has soaked.

    Args:
        soaked_count: devices that have run the new version for ``soak_s``.
        waited_s: seconds in which the wave could have got on (``waited_s``).
        excused_count: devices at work that are late only because they waited for a window of
            their own.
    """
    if over_limit(gate, planned_count, tally):
        return Judgement.FAIL
    needed = gate.needed(tally.members)
    late = waited_s >= gate.wave_deadline_s
    over = late or tally.in_flight + tally.waiting == 0
    if over and tally.failed > gate.limit(min(planned_count, tally.answered)):
        return Judgement.FAIL
    if over and soaked_count >= needed:
        return Judgement.PASS
    if tally.committed + excused_count >= needed:
        return Judgement.WAIT
    if late or tally.committed + tally.waiting + tally.may_answer < needed:
        return Judgement.INSUFFICIENT
    return Judgement.WAIT


def waited_s(state: RolloutState) -> float:
    """Seconds since the wave opened, or the rollout was resumed, in which devices might install.

    Outside of the rollout's window they wait as they were told to: that is no time lost.
    """
    return open_for_s(state.plan.window, state.wave_since_s, state.now_s)


def is_busy(state: RolloutState) -> bool:
    """Whether a wave that was promoted before it was over still has connected devices at work."""
    late = waited_s(state) >= state.plan.gate.wave_deadline_s
    return not late and any(tally.in_flight + tally.waiting for tally in state.tallies)


def failure_groups(state: RolloutState) -> tuple[FailureGroup, ...]:
    """The failures of a rollout that are not set aside, most devices first."""
    hardware = {device.device: device.hardware for device in state.plan.devices}
    groups: dict[tuple[int, str, str, str], list[str]] = {}
    for name, record in state.devices.items():
        if record.phase in BAD and not record.set_aside:
            key = (record.wave + 1, hardware[name], failed_how(record), record.reason)
            groups.setdefault(key, []).append(name)
    found = [FailureGroup(*key, len(names), tuple(names)) for key, names in groups.items()]
    return tuple(sorted(found, key=lambda group: (-group.device_count, group.devices)))


def failed_how(record: DeviceRecord) -> str:
    """The step at which a device failed, in words."""
    if record.phase is Phase.ROLLED_BACK:
        return "broke its health spec in trial and returned by itself"
    if record.phase is Phase.REFUSED:
        return "refused it"
    return _STAGE.get(record.reached, "failed to install it")


def phase_counts(state: RolloutState) -> dict[str, int]:
    """The device-state bar: devices by phase, unfinished ones that are gone as ``offline``.

    Every device that the plan names is counted once, ineligible ones too.
    """
    counts = Counter(shown_phase(record) for record in state.devices.values())
    counts["ineligible"] = len(state.plan.ineligible)
    return {name: count for name, count in counts.items() if count}


def shown_phase(record: DeviceRecord) -> str:
    """A device's phase as people see it."""
    unfinished = record.phase is Phase.RETURNING or record.phase not in _SETTLED
    return "offline" if unfinished and not record.online else record.phase.value


_SETTLED = frozenset(
    {Phase.COMMITTED, *BAD, Phase.WITHDRAWN, Phase.RETURNED, Phase.RETURN_FAILED, Phase.EXCLUDED}
)


def aborted_by_gate_sentence(state: RolloutState, wave: int) -> str:
    """Why the gate aborted, to be read before anything is withdrawn."""
    tally = state.tallies[wave]
    limit = state.plan.gate.limit(len(state.plan.waves[wave]))
    if not over_limit(state.plan.gate, len(state.plan.waves[wave]), tally):
        limit = state.plan.gate.limit(tally.answered)
    groups: Counter[tuple[str, str]] = Counter()
    for group in failure_groups(state):
        if group.wave == wave + 1:
            groups[group.step, group.reason] += group.device_count
    of_all = f"{tally.failed} of {tally.answered} devices"
    if len(groups) == 1:
        ((how, reason),) = groups
        how = how if tally.failed == 1 else how.replace(" its", " their")
        what = f"{of_all} {how}{_because(reason)} (limit {limit})"
    else:
        told = "; ".join(f"{n} {how}{_because(why)}" for (how, why), n in groups.most_common(3))
        more = f"; {len(groups) - 3} other reasons" if len(groups) > 3 else ""
        what = f"{of_all} failed (limit {limit}): {told}{more}"
    where = f" in wave {wave + 1}" if len(state.plan.waves) > 1 and wave > 0 else ""
    return f"Aborted{where}: {what}; {never_asked(state)}"


def aborted_by_operator_sentence(state: RolloutState, who: str, reason: str) -> str:
    """Who aborted and why."""
    return f"Aborted by {who}{_because(reason)}; {never_asked(state)}"


def insufficient_sentence(state: RolloutState) -> str:
    """Why a wave can neither pass nor fail."""
    tally = state.tallies[state.wave]
    gate, window = state.plan.gate, state.plan.window
    told = (
        f"{tally.committed} of {tally.members} devices of wave {state.wave + 1} succeeded, "
        f"{gate.needed(tally.members)} needed within {gate.wave_deadline_s:g} s"
        + (f" of the window {window} UTC" if window else "")
    )
    return f"Paused, insufficient data: {'; '.join([told, *_remainder(tally)])}"


def completed_sentence(state: RolloutState) -> str:
    """How far the version got, once the last wave has passed."""
    total = _sum(state)
    told = f"{total.committed} of {total.members} devices run {state.plan.version_to}"
    parts = [told, *_remainder(total)]
    return f"Completed: {'; '.join(parts)}"


def rolled_back_sentence(state: RolloutState) -> str:
    """How many devices are known to be back on what they ran before."""
    phases = Counter(record.phase for record in state.devices.values())
    back, lost = phases[Phase.RETURNED], phases[Phase.RETURN_FAILED]
    open_count = phases[Phase.RETURNING]
    parts = [f"{back} of {back + lost + open_count} devices returned"]
    if lost:
        parts.append(f"{lost} failed to return")
    if open_count:
        parts.append(f"{open_count} not heard from, and told to return when they come back")
    kept = sum(
        record.digest == state.plan.digest_to and record.phase is Phase.COMMITTED
        for record in state.devices.values()
    )
    if kept:
        parts.append(f"{kept} had nothing to return to and keep {state.plan.version_to}")
    return f"Rolled back: {'; '.join(parts)}"


def never_asked(state: RolloutState) -> str:
    """How many devices the rollout did not reach."""
    return f"{in_devices(sum(tally.waiting for tally in state.tallies))} never asked"


def _remainder(tally: Tally) -> list[str]:
    named = (
        ("failed", tally.failed),
        ("failed, set aside", tally.set_aside),
        ("without a result", tally.in_flight),
        ("held by their owners", tally.held),
        ("offline", tally.offline),
    )
    return [f"{count} {name}" for name, count in named if count]


def _sum(state: RolloutState) -> Tally:
    names = Tally.__struct_fields__
    return Tally(*(sum(getattr(tally, name) for tally in state.tallies) for name in names))


def in_devices(count: int) -> str:
    """A number of devices, as a text says it."""
    return f"{count} device" if count == 1 else f"{count} devices"


def _because(reason: str) -> str:
    return f": {reason}" if reason else ""
