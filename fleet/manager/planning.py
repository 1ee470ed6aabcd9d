"""From an operator's order to a plan: which devices, in which waves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ExitCode
from edge_contract.messages import AgentState
from fleet.errors import FleetError
from fleet.manager.byte_preview import preview_lines
from fleet.manager.catalogue import Catalogue
from fleet.manager.rollout_order import RolloutOrder, command_line
from fleet.rollout.plan import Candidate, RolloutPlan, make_plan
from fleet.rollout.preview import preview_text, preview_waves
from fleet.store.devices import DeviceRow, list_devices
from fleet.store.identity import all_revoked_keys
from fleet.store.rollouts import count_rollouts
from fleet.views.rollout import BytesPreview, IneligibleDevice, PlannedWave, PlanView


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
    revoked = all_revoked_keys(tx)
    earlier = count_rollouts(tx, order.line, order.version)
    rollout_id = f"{order.line}-{order.version}" + (f"-{earlier + 1}" if earlier else "")
    return make_plan(
        rollout_id,
        order.line,
        order.version,
        published.digest,
        [_candidate(row, revoked=row.public_key in revoked) for row in rows],
        hardware=catalogue.hardware(published.digest),
        shares=order.shares,
        counts=order.counts,
        gate=order.gate,
        on_abort=order.on_abort,
        seed=order.seed,
        planned_by=who,
        window=order.window,
    )


def clockless(rows: Sequence[DeviceRow], plan: RolloutPlan) -> list[str]:
    """The plan's devices that would wait for its window for ever: they do not know the time."""
    planned = {device.device for device in plan.devices} if plan.window else set()
    states = {row.device: _state(row) for row in rows if row.device in planned}
    return sorted(name for name, state in states.items() if state and not state.clock_known)


def _clock_lines(names: Sequence[str]) -> list[str]:
    if not names:
        return []
    shown = ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")
    why = "the clock is not known to be right there, so no window opens"
    return [f"  {shown}: {why}; set it from the network (NTP), or leave --window out for them"]


def plan_view(
    catalogue: Catalogue,
    order: RolloutOrder,
    plan: RolloutPlan,
    preview: BytesPreview,
    waiting: list[str],
) -> PlanView:
    """The plan for people: the waves in it are the plan's own; ``waiting`` are ``clockless``."""
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
        window=plan.window,
        bytes_total=sum(bytes_by_hardware[device.hardware] for device in plan.devices),
        bytes=preview,
        clockless=waiting,
        command=command_line(order),
        text="\n".join([preview_text(plan), *_clock_lines(waiting), preview_lines(preview)]),
    )


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


def _candidate(row: DeviceRow, *, revoked: bool) -> Candidate:
    state = _state(row)
    epoch, seq = max(row.desired, row.reported)
    return Candidate(
        device=row.device,
        hardware=row.hardware,
        model_line=row.line,
        digest=committed_digest(state),
        desired_epoch=epoch,
        desired_seq=seq,
        online=row.online,
        held=state is not None and state.held,
        revoked=revoked,
    )


def _state(row: DeviceRow) -> AgentState | None:
    if row.state is None:
        return None
    return decode_json(row.state, AgentState, what=f"stored state of {row.device}")


def committed_digest(state: AgentState | None) -> str:
    """What a device runs for good; what it has on trial it does not name."""
    return state.active_digest if state is not None else ""
