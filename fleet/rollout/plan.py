"""What a rollout will do, fixed before it starts: the plan as saved is what runs.

Waves are cut from one order of the devices. Inside a hardware kind the order is by a hash of seed
and device id; the kinds are then interleaved in proportion, so that every prefix of the order, and
so every wave, holds each kind in about the share which it has of the fleet.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Literal

import msgspec

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.rollout.gate import Gate

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Candidate(msgspec.Struct, frozen=True):
    """What the fleet knows of a device when a rollout is planned.

    Attributes:
        digest: the committed digest that it runs now, "" for none.
        desired_epoch, desired_seq: the highest number of a ``desired`` that the store or the
            device knows.
        held: its owner said "no updates for now".
        enrolled: its key is known; a device that never enrolled can be asked nothing.
        revoked: its key is revoked; it is asked nothing, and nothing that it says is heard.
    """

    device: str
    hardware: str
    model_line: str
    digest: str = ""
    desired_epoch: int = 0
    desired_seq: int = 0
    online: bool = True
    held: bool = False
    enrolled: bool = True
    revoked: bool = False


class PlannedDevice(msgspec.Struct, frozen=True):
    """An eligible device, as it was known when the plan was made."""

    device: str
    hardware: str
    digest_from: str
    desired_epoch: int
    desired_seq: int
    online: bool


class Ineligible(msgspec.Struct, frozen=True):
    """A device that the rollout will not touch, and why."""

    device: str
    hardware: str
    why: str


class RolloutPlan(msgspec.Struct, frozen=True):
    """One version, the devices that get it in which order, and the gate between the waves.

    ``on_abort`` says what an abort *by the gate* does with devices that already committed:
    ``halt`` leaves them on the new version, ``return`` sends them back. ``window``: the hours (UTC)
    in which devices may install; the deadline of a wave counts these hours alone.

    Raises:
        FleetError: a digest of another form, no wave, a device planned twice or nowhere, or a wave
            too small to ever pass the gate.
    """

    rollout_id: str
    model_line: str
    version_to: str
    digest_to: str
    devices: tuple[PlannedDevice, ...]
    waves: tuple[tuple[str, ...], ...]
    ineligible: tuple[Ineligible, ...] = ()
    gate: Gate = Gate()
    on_abort: Literal["halt", "return"] = "halt"
    seed: str = ""
    planned_by: str = ""
    window: str = ""

    def __post_init__(self) -> None:
        if not _DIGEST.fullmatch(self.digest_to):
            raise FleetError(
                f"rollout {self.rollout_id}: expected a digest sha256:<64 hex digits>, "
                f"got {self.digest_to!r}",
                hint="take the digest that `edge-fleet publish` printed",
            )
        if self.on_abort not in ("halt", "return"):
            raise FleetError(
                f"rollout {self.rollout_id}: expected on_abort halt or return, "
                f"got {self.on_abort!r}"
            )
        if not self.waves or not all(self.waves):
            raise FleetError(f"rollout {self.rollout_id}: expected waves with devices, got none")
        in_waves = [device for wave in self.waves for device in wave]
        planned = [device.device for device in self.devices]
        if len(set(in_waves)) != len(in_waves) or sorted(in_waves) != sorted(planned):
            raise FleetError(
                f"rollout {self.rollout_id}: expected every planned device in exactly one wave, "
                f"got {len(planned)} planned and {len(in_waves)} places in waves"
            )
        already = [d.device for d in self.devices if d.digest_from == self.digest_to]
        if already:
            raise FleetError(
                f"rollout {self.rollout_id}: expected devices that run another digest, "
                f"got {already[0]}, which already runs {self.digest_to}"
            )
        for number, wave in enumerate(self.waves, 1):
            if self.gate.needed(len(wave)) > len(wave):
                raise FleetError(
                    f"rollout {self.rollout_id}: wave {number} has {len(wave)} devices and can "
                    f"never show the {self.gate.min_success_count} successes of min_success_count",
                    hint="make the wave larger or min_success_count smaller",
                )


def make_plan(
    rollout_id: str,
    model_line: str,
    version_to: str,
    digest_to: str,
    candidates: Iterable[Candidate],
    *,
    hardware: Iterable[str],
    shares: Sequence[float] | None = None,
    counts: Sequence[int] | None = None,
    gate: Gate | None = None,
    on_abort: Literal["halt", "return"] = "halt",
    seed: str = "",
    planned_by: str = "",
    window: str = "",
) -> RolloutPlan:
    """Sort devices into eligible and not, and the eligible ones into waves.

    Args:
        hardware: the kinds that the version was built for.
        shares, counts: see ``make_waves``; with neither, one device first, then all.
        seed: what the order is drawn from; ``rollout_id`` when empty.
        window: ``HH:MM-HH:MM`` in UTC in which devices may install, "" for always; checked already.

    Raises:
        FleetError: no device is eligible (each reason is in the message), a device is named
            twice, or waves or gate do not fit.
    """
    built_for = sorted(set(hardware))
    eligible: list[PlannedDevice] = []
    ineligible: list[Ineligible] = []
    seen: set[str] = set()
    for candidate in sorted(candidates, key=lambda c: c.device):
        if candidate.device in seen:
            raise FleetError(f"rollout {rollout_id}: device {candidate.device!r} is named twice")
        seen.add(candidate.device)
        why = _why_not(candidate, model_line, version_to, digest_to, built_for)
        if why:
            ineligible.append(Ineligible(candidate.device, candidate.hardware, why))
        else:
            eligible.append(
                PlannedDevice(
                    candidate.device,
                    candidate.hardware,
                    candidate.digest,
                    candidate.desired_epoch,
                    candidate.desired_seq,
                    candidate.online,
                )
            )
    if not eligible:
        reasons = Counter(device.why for device in ineligible)
        told = "; ".join(f"{count} {why}" for why, count in sorted(reasons.items()))
        raise FleetError(
            f"rollout {rollout_id}: expected at least one eligible device for {model_line} "
            f"{version_to}, got none of {len(ineligible)}" + (f" ({told})" if told else ""),
            hint="`edge-fleet devices` shows hardware, holds and versions",
        )
    if shares is None and counts is None:
        counts = (1,)
    seed = seed or rollout_id
    return RolloutPlan(
        rollout_id=rollout_id,
        model_line=model_line,
        version_to=version_to,
        digest_to=digest_to,
        devices=tuple(eligible),
        waves=make_waves(eligible, shares=shares, counts=counts, seed=seed),
        ineligible=tuple(ineligible),
        gate=gate if gate is not None else Gate(),
        on_abort=on_abort,
        seed=seed,
        planned_by=planned_by,
        window=window,
    )


def make_waves(
    devices: Sequence[PlannedDevice],
    *,
    shares: Sequence[float] | None = None,
    counts: Sequence[int] | None = None,
    seed: str,
) -> tuple[tuple[str, ...], ...]:
    """Cut devices into waves: the same devices and seed give the same waves, in whatever order.

    Args:
        shares: how much of the fleet has been asked once each wave is open, cumulative, rising
            and ending at 1.0, as in (0.01, 0.1, 0.5, 1.0). A wave that rounding leaves empty is
            dropped, so small fleets have fewer waves.
        counts: devices in each wave; those left over form a last wave.
        seed: any text.

    Raises:
        FleetError: both or neither of shares and counts, or values out of their range.
    """
    if (shares is None) == (counts is None):
        raise FleetError("waves: expected either shares or counts", exit_code=ExitCode.USAGE)
    if shares is not None:
        rising = all(a < b for a, b in zip((0.0, *shares), shares, strict=False))
        if not rising or not shares or shares[-1] != 1.0:
            raise FleetError(
                f"waves: expected cumulative shares that rise from above 0 to 1.0, got {shares!r}",
                hint='for instance "1%,10%,50%,100%"',
                exit_code=ExitCode.USAGE,
            )
        ends = [math.ceil(Fraction(repr(float(share))) * len(devices)) for share in shares]
    else:
        counts = counts or ()
        if any(isinstance(count, bool) or count < 1 for count in counts) or not counts:
            raise FleetError(
                f"waves: expected counts of at least 1 device, got {counts!r}",
                exit_code=ExitCode.USAGE,
            )
        ends = [sum(counts[: i + 1]) for i in range(len(counts))] + [len(devices)]
    order = _interleaved(devices, seed)
    starts = [0, *ends]
    waves = (tuple(order[start:end]) for start, end in zip(starts, ends, strict=False))
    return tuple(wave for wave in waves if wave)


def _why_not(
    candidate: Candidate, line: str, version: str, digest: str, built_for: list[str]
) -> str:
    if not candidate.enrolled:
        return "never enrolled"
    if candidate.revoked:
        return "its key is revoked"
    if candidate.model_line != line:
        return f"runs model line {candidate.model_line}, not {line}"
    if candidate.hardware not in built_for:
        return f"hardware {candidate.hardware}, but built for {', '.join(built_for)}"
    if candidate.held:
        return "held by its owner"
    if candidate.digest == digest:
        return f"already runs {version}"
    return ""


def _interleaved(devices: Sequence[PlannedDevice], seed: str) -> list[str]:
    strata: dict[str, list[tuple[bytes, str]]] = {}
    for device in devices:
        draw = hashlib.sha256(f"{seed}\0{device.device}".encode()).digest()
        strata.setdefault(device.hardware, []).append((draw, device.device))
    places: list[tuple[Fraction, bytes, str]] = []
    for members in strata.values():
        for i, (draw, name) in enumerate(sorted(members)):
            places.append((Fraction(2 * i + 1, 2 * len(members)), draw, name))
    return [name for _, _, name in sorted(places)]
