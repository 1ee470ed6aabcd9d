"""Rows of rollouts: the plan as saved, and the engine's state after its last step."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, func, insert, select, update

from edge_contract.health import HealthSpec
from fleet.rollout.state import RolloutState, decode_state, encode_state
from fleet.store.schema import rollouts


class RolloutRow(msgspec.Struct, frozen=True, kw_only=True):
    """One rollout as it is stored."""

    id: str
    state: RolloutState
    health: HealthSpec
    created_at_s: float
    created_by: str
    updated_at_s: float


def add_rollout(tx: Connection, row: RolloutRow) -> None:
    """Store a new rollout with its plan."""
    plan = row.state.plan
    tx.execute(
        insert(rollouts).values(
            id=row.id,
            line=plan.model_line,
            version=plan.version_to,
            digest=plan.digest_to,
            status=row.state.status.value,
            plan=msgspec.json.encode(plan),
            health=msgspec.json.encode(row.health),
            state=encode_state(row.state),
            created_at_s=row.created_at_s,
            created_by=row.created_by,
            updated_at_s=row.updated_at_s,
        )
    )


def save_state(tx: Connection, state: RolloutState, now_s: float) -> None:
    """Replace the state of a stored rollout."""
    tx.execute(
        update(rollouts)
        .where(rollouts.c.id == state.plan.rollout_id)
        .values(status=state.status.value, state=encode_state(state), updated_at_s=now_s)
    )


def get_rollout(tx: Connection, rollout: str) -> RolloutRow | None:
    """One rollout."""
    row = tx.execute(_WHOLE.where(rollouts.c.id == rollout)).one_or_none()
    return None if row is None else _row(*row)


def list_rollouts(tx: Connection) -> list[RolloutRow]:
    """All rollouts, newest first."""
    return [_row(*row) for row in tx.execute(_WHOLE.order_by(rollouts.c.number.desc()))]


def newest_rollouts(tx: Connection) -> list[RolloutRow]:
    """The newest rollout of every model line."""
    newest = select(func.max(rollouts.c.number)).group_by(rollouts.c.line)
    return [_row(*row) for row in tx.execute(_WHOLE.where(rollouts.c.number.in_(newest)))]


def count_rollouts(tx: Connection, line: str, version: str) -> int:
    """How often this version was rolled out."""
    count = tx.scalar(
        select(func.count())
        .select_from(rollouts)
        .where(rollouts.c.line == line, rollouts.c.version == version)
    )
    return int(count or 0)


_WHOLE = select(
    rollouts.c.id,
    rollouts.c.state,
    rollouts.c.health,
    rollouts.c.created_at_s,
    rollouts.c.created_by,
    rollouts.c.updated_at_s,
)


def _row(
    rollout: str,
    state: bytes,
    health: bytes,
    created_at_s: float,
    created_by: str,
    updated_at_s: float,
) -> RolloutRow:
    return RolloutRow(
        id=rollout,
        state=decode_state(state),
        health=msgspec.json.decode(health, type=HealthSpec),
        created_at_s=created_at_s,
        created_by=created_by,
        updated_at_s=updated_at_s,
    )
