"""Rows of devices: pinned keys, connection, last state."""

from __future__ import annotations

from typing import Any

import msgspec
from sqlalchemy import Connection, insert, select, update

from fleet.store.schema import devices


class DeviceRow(msgspec.Struct, frozen=True, kw_only=True):
    """One device as it is stored; see ``schema.devices``."""

    device: str
    public_key: str
    hardware: str
    line: str
    agent_version: str
    enrolled_at_s: float
    last_seen_at_s: float
    online: bool = False
    connection_id: str = ""
    connection_boot_id: str = ""
    connection_seq: int = 0
    connection_ts: float = 0.0
    desired_epoch: int = 0
    desired_seq: int = 0
    reported_epoch: int = 0
    reported_seq: int = 0
    state: bytes | None = None
    state_at_s: float | None = None
    telemetry: bytes | None = None
    telemetry_ts: float | None = None
    unheard: bool = False

    @property
    def desired(self) -> tuple[int, int]:
        """(epoch, seq) of the newest order that this fleet gave."""
        return self.desired_epoch, self.desired_seq

    @property
    def reported(self) -> tuple[int, int]:
        """(epoch, seq) of the newest order that the device says it took up."""
        return self.reported_epoch, self.reported_seq


def get_device(tx: Connection, device: str) -> DeviceRow | None:
    """The row of ``device``, None for a device that never enrolled."""
    row = tx.execute(select(devices).where(devices.c.device == device)).mappings().one_or_none()
    return None if row is None else DeviceRow(**row)


def list_devices(tx: Connection) -> list[DeviceRow]:
    """Every device, by id."""
    rows = tx.execute(select(devices).order_by(devices.c.device)).mappings()
    return [DeviceRow(**row) for row in rows]


def pinned_keys(tx: Connection) -> dict[str, bytes]:
    """Device id -> raw public key, of all devices."""
    rows = tx.execute(select(devices.c.device, devices.c.public_key))
    return {device: bytes.fromhex(key) for device, key in rows}


def add_device(tx: Connection, row: DeviceRow) -> None:
    """Store a device that is not there yet."""
    tx.execute(insert(devices).values(**msgspec.structs.asdict(row)))


def change_device(tx: Connection, device: str, **columns: Any) -> None:
    """Set some columns of one device."""
    tx.execute(update(devices).where(devices.c.device == device).values(**columns))
