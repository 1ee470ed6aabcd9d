"""From an operator's order to a plan: which devices, in which waves, under which gates."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Literal

import msgspec
from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ExitCode
from edge_contract.health import HealthSpec
from edge_contract.messages import AgentState
from fleet.errors import FleetError
from fleet.manager.catalogue import Catalogue
from fleet.manager.views import IneligibleDevice, PlannedWave, PlanView
from fleet.rollout.gate import Gate
from fleet.rollout.plan import Candidate, RolloutPlan, make_plan
from fleet.rollout.preview import preview_text, preview_waves
from fleet.store.devices import DeviceRow, list_devices
from fleet.store.rollouts import count_rollouts

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
_COUNT = re.compile(r"[1-9][0-9]{0,6}")


class RolloutOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to roll out, how, and under which gates.

    Attributes:
        line, version: a published bundle.
        shares: cumulative shares of the fleet, rising to 1.0; or
        counts: devices in each wave (the rest forms a last one). With neither: one device first,
            then all. ``parse_waves`` reads both from a text such as "1,100%".
        gate: what a wave must show before the next one is asked.
        health: what a trial must show on the device.
        devices: only these; None for all of the line.
        on_abort: what a gate's abort does with devices that committed: ``halt`` leaves them,
            ``return`` sends them back.
        seed: what the order of the devices is drawn from; the rollout's id when empty.
    """

    line: str
    version: str
    shares: list[float] | None = None
    counts: list[int] | None = None
    gate: Gate = Gate()
    health: HealthSpec = HealthSpec()
    devices: list[str] | None = None
    on_abort: Literal["halt", "return"] = "halt"
    seed: str = ""


def parse_waves(text: str) -> tuple[list[float] | None, list[int] | None]:
    """(shares, counts) from "1%,10%,100%" (cumulative shares) or "1,5,100%" (devices a wave, then
    all the rest).

    Raises:
        FleetError: neither form.
    """
    parts = [part.strip() for part in text.split(",")]
    shares = [float(m[1]) / 100 for part in parts if (m := _PERCENT.fullmatch(part))]
    counts = [int(part) for part in parts if _COUNT.fullmatch(part)]
    if len(shares) == len(parts):
        return shares, None
    if counts and parts[-1] in ("100%", parts[len(counts) - 1]) and len(counts) >= len(parts) - 1:
        return None, counts
    raise FleetError(
        f'waves {text!r}: expected cumulative shares such as "1%,10%,100%", or devices a wave'
        ' and then the rest, such as "1,5,100%"',
        exit_code=ExitCode.USAGE,
        docs="explanation/rollout.md",
    )


def make_rollout_plan(
    tx: Connection, catalogue: Catalogue, order: RolloutOrder, *, who: str
) -> RolloutPlan:
    """The plan of an order for the fleet as it is stored now.

    Raises:
        FleetError: not published, an unknown device named, none eligible, or a plan that cannot
            pass its own gates.
    """
    published = catalogue.find(order.line, order.version)
    rows = _chosen(list_devices(tx), order.devices)
    earlier = count_rollouts(tx, order.line, order.version)
    rollout_id = f"{order.line}-{order.version}" + (f"-{earlier + 1}" if earlier else "")
    return make_plan(
        rollout_id,
        order.line,
        order.version,
        published.digest,
        [_candidate(row) for row in rows],
        hardware=catalogue.hardware(published.digest),
        shares=order.shares,
        counts=order.counts,
        gate=order.gate,
        on_abort=order.on_abort,
        seed=order.seed,
        planned_by=who,
    )


def plan_view(catalogue: Catalogue, order: RolloutOrder, plan: RolloutPlan) -> PlanView:
    """The plan for people: the waves in it are the plan's own."""
    bytes_by_hardware = {
        hardware: catalogue.download_bytes(plan.digest_to, hardware)
        for hardware in {device.hardware for device in plan.devices}
    }
    return PlanView(
        line=plan.model_line,
        version=plan.version_to,
        digest=plan.digest_to,
        eligible_count=len(plan.devices),
        ineligible=[
            IneligibleDevice(device=item.device, hardware=item.hardware, why=item.why)
            for item in plan.ineligible
        ],
        waves=[
            msgspec.convert(msgspec.to_builtins(wave), PlannedWave) for wave in preview_waves(plan)
        ],
        gate=plan.gate,
        health=order.health,
        on_abort=plan.on_abort,
        bytes_total=sum(bytes_by_hardware[device.hardware] for device in plan.devices),
        command=command_line(order),
        text=preview_text(plan),
    )


def command_line(order: RolloutOrder) -> str:
    """The order as a command for a terminal; settings that are the default are left out."""
    words = ["edge-fleet", "rollout", "start", order.line, order.version]
    if order.shares is not None:
        words += ["--waves", ",".join(f"{share * 100:g}%" for share in order.shares)]
    elif order.counts is not None:
        words += ["--waves", ",".join([*map(str, order.counts), "100%"])]
    for spec, default in ((order.gate, Gate()), (order.health, HealthSpec())):
        for name in spec.__struct_fields__:
            value = getattr(spec, name)
            if value != getattr(default, name):
                text = f"{value * 100:g}%" if name in _GATE_SHARES else f"{value:g}"
                words += ["--" + name.replace("_", "-"), text]
    if order.on_abort != "halt":
        words += ["--on-abort", order.on_abort]
    for device in order.devices or ():
        words += ["--device", device]
    if order.seed:
        words += ["--seed", order.seed]
    return shlex.join(words)


_GATE_SHARES = frozenset({"max_failures_share", "quorum_share"})


def _chosen(rows: Sequence[DeviceRow], names: list[str] | None) -> list[DeviceRow]:
    if names is None:
        return list(rows)
    known = {row.device: row for row in rows}
    unknown = sorted(set(names) - set(known))
    if unknown:
        raise FleetError(
            f"no device {', '.join(unknown)} is enrolled",
            hint="edge-fleet devices",
            exit_code=ExitCode.NOT_FOUND,
        )
    return [known[name] for name in sorted(set(names))]


def _candidate(row: DeviceRow) -> Candidate:
    state = None
    if row.state is not None:
        state = decode_json(row.state, AgentState, what=f"stored state of {row.device}")
    return Candidate(
        device=row.device,
        hardware=row.hardware,
        model_line=row.line,
        digest=committed_digest(state),
        desired_seq=max(row.desired_seq, row.reported_seq),
        online=row.online,
        held=state is not None and state.held,
    )


def committed_digest(state: AgentState | None) -> str:
    """What a device runs for good: in trial that is still the version before."""
    if state is None:
        return ""
    return state.fallback_digest if state.update_phase == "trial" else state.active_digest
