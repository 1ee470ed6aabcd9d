"""Rows of the configurations in force: what the fleet wants of each device's settings."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection, RowMapping, delete, insert, select

from edge_contract.configuration import Value
from fleet.store.schema import configurations


class ConfigurationRow(msgspec.Struct, frozen=True, kw_only=True):
    """The newest configuration of one device, as it was signed."""

    device: str
    seq: int
    epoch: int
    settings: dict[str, Value]
    envelope: bytes
    issued_at_s: float
    expires_at_s: float


def put_configuration(tx: Connection, row: ConfigurationRow) -> None:
    """Store a configuration in place of the one before."""
    tx.execute(delete(configurations).where(configurations.c.device == row.device))
    columns = msgspec.structs.asdict(row)
    columns["settings"] = msgspec.json.encode(row.settings)
    tx.execute(insert(configurations).values(**columns))


def get_configuration(tx: Connection, device: str) -> ConfigurationRow | None:
    """What is wanted of one device; None where nothing ever was."""
    query = select(configurations).where(configurations.c.device == device)
    row = tx.execute(query).mappings().one_or_none()
    return None if row is None else _row(row)


def all_configurations(tx: Connection) -> dict[str, ConfigurationRow]:
    """Device id -> what is wanted of it."""
    found = tx.execute(select(configurations).order_by(configurations.c.device)).mappings()
    return {row["device"]: _row(row) for row in found}


def _row(columns: RowMapping) -> ConfigurationRow:
    settings = msgspec.json.decode(columns["settings"], type=dict[str, Value])
    return ConfigurationRow(**{**columns, "settings": settings})
