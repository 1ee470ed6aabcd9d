"""The dry run: what a saved plan will do, as data for ``--json`` and as text for a terminal."""

from __future__ import annotations

from collections import Counter

import msgspec

from fleet.rollout.plan import RolloutPlan


class WavePreview(msgspec.Struct, frozen=True):
    """One wave before it runs.

    ``failure_rate_upper`` is what no failure in the whole wave would still leave open: the exact
    one-sided 95 % bound 1 - 0.05 ** (1 / n) on the share of devices that would fail.
    """

    wave: int
    devices: tuple[str, ...]
    device_count: int
    share_cumulative: float
    hardware: dict[str, int]
    offline_count: int
    failures_limit: int
    successes_needed: int
    failure_rate_upper: float


def preview_waves(plan: RolloutPlan) -> tuple[WavePreview, ...]:
    """Each wave of a plan with its counts and the gate's numbers for it."""
    known = {device.device: device for device in plan.devices}
    previews = []
    asked = 0
    for number, wave in enumerate(plan.waves, 1):
        asked += len(wave)
        kinds = Counter(known[name].hardware for name in wave)
        previews.append(
            WavePreview(
                wave=number,
                devices=wave,
                device_count=len(wave),
                share_cumulative=asked / len(plan.devices),
                hardware=dict(sorted(kinds.items())),
                offline_count=sum(not known[name].online for name in wave),
                failures_limit=plan.gate.limit(len(wave)),
                successes_needed=plan.gate.needed(len(wave)),
                failure_rate_upper=1 - 0.05 ** (1 / len(wave)),
            )
        )
    return tuple(previews)


def preview_dict(plan: RolloutPlan) -> dict[str, object]:
    """The preview as plain JSON types; the waves in it are the plan's, not computed anew."""
    return {
        "rollout": plan.rollout_id,
        "model_line": plan.model_line,
        "version_to": plan.version_to,
        "digest_to": plan.digest_to,
        "eligible_count": len(plan.devices),
        "ineligible_count": len(plan.ineligible),
        "ineligible": msgspec.to_builtins(plan.ineligible),
        "waves": msgspec.to_builtins(preview_waves(plan)),
        "gate": msgspec.to_builtins(plan.gate),
        "on_abort": plan.on_abort,
        "seed": plan.seed,
        "window": plan.window,
    }


def preview_text(plan: RolloutPlan) -> str:
    """The preview for a terminal, one line a wave and one line a device left out."""
    gate = plan.gate
    lines = [
        f"rollout {plan.rollout_id}: {plan.model_line} -> {plan.version_to} ({plan.digest_to})",
        f"{len(plan.devices)} eligible, {len(plan.ineligible)} ineligible",
    ]
    for wave in preview_waves(plan):
        kinds = ", ".join(f"{count} {kind}" for kind, count in wave.hardware.items())
        sample = ", ".join(wave.devices[:5]) + (", …" if wave.device_count > 5 else "")
        offline = f", {wave.offline_count} offline now" if wave.offline_count else ""
        lines.append(
            f"  wave {wave.wave}: {wave.device_count} ({kinds}{offline}): {sample}; "
            f"passes with {wave.successes_needed}, aborts above {wave.failures_limit} failed; "
            f"no failure here still leaves up to {wave.failure_rate_upper:.1%} (95 %)"
        )
    lines.append(
        f"  soak {gate.soak_s:g} s, deadline {gate.wave_deadline_s:g} s a wave; "
        f"on abort: {plan.on_abort}"
    )
    if plan.window:
        lines.append(f"  installs only {plan.window} UTC, and the deadline counts only these hours")
    lines += [f"  not {device.device}: {device.why}" for device in plan.ineligible]
    return "\n".join(lines)
