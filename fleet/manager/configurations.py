"""Signs, stores and renews what the fleet wants of devices' settings. Owned by the loop.

As with orders, the store is written before anything is published, what is retained at the broker
is a cache of it, and a number is above all that the store or the device has seen.
"""

from __future__ import annotations

import secrets

from sqlalchemy import Connection

from edge_contract.configuration import Value
from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.manager.configuration_view import PlannedConfiguration
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.device_views import last_state
from fleet.manager.director import ORDER_LIFE_S, Director
from fleet.store import devices
from fleet.store.configurations import (
    ConfigurationRow,
    all_configurations,
    get_configuration,
    put_configuration,
)
from fleet.store.devices import DeviceRow


class Configurations:
    """What is wanted of each device.

    Args:
        director: signs.
    """

    def __init__(self, director: Director) -> None:
        self._director = director

    def plan(self, tx: Connection, order: ConfigureOrder) -> list[PlannedConfiguration]:
        """What ``change`` would do now.

        Raises:
            FleetError: an unknown device is named, or none is left.
        """
        rows = all_configurations(tx)
        planned = []
        for device in _chosen(tx, order):
            row = rows.get(device.device)
            before = dict(row.settings) if row else {}
            after = {k: v for k, v in before.items() if k not in order.unset} | order.settings
            planned.append(
                PlannedConfiguration(
                    device=device.device,
                    online=device.online,
                    before=before,
                    after=dict(sorted(after.items())),
                    changes=after != before,
                )
            )
        return planned

    def change(
        self, tx: Connection, order: ConfigureOrder, now_s: float
    ) -> list[PlannedConfiguration]:
        """Sign and store what changes; ``publish`` it once the transaction is committed.

        Raises:
            FleetError: as ``plan``, or the director key is missing.
        """
        planned = self.plan(tx, order)
        for item in planned:
            row = devices.get_device(tx, item.device)
            if item.changes and row is not None:
                self._sign(tx, row, item.after, now_s)
        return planned

    def renew(self, tx: Connection, names: list[str], now_s: float) -> list[ConfigurationRow]:
        """Sign anew for devices whose key has changed."""
        signed = []
        for name in names:
            wanted, device = get_configuration(tx, name), devices.get_device(tx, name)
            if wanted is not None and device is not None:
                signed.append(self._sign(tx, device, wanted.settings, now_s))
        return signed

    def renew_due(self, tx: Connection, now_s: float) -> list[ConfigurationRow]:
        """Sign anew what has less than half of its life left, and what is by a key or of an epoch
        that is no longer in force."""
        due = [
            name
            for name, row in all_configurations(tx).items()
            if (
                row.expires_at_s - now_s <= ORDER_LIFE_S / 2
                or not self._director.signed_by_me(row.epoch, row.envelope)
            )
            and not _is_left_behind(tx, row)
        ]
        return self.renew(tx, due, now_s)

    def _sign(
        self, tx: Connection, device: DeviceRow, settings: dict[str, Value], now_s: float
    ) -> ConfigurationRow:
        before, state = get_configuration(tx, device.device), last_state(device)
        epoch = self._director.epoch
        reported = state.config_seq if state is not None and state.config_epoch == epoch else 0
        seq = max(before.seq if before else 0, reported) + 1
        row = ConfigurationRow(
            device=device.device,
            seq=seq,
            epoch=epoch,
            settings=settings,
            envelope=self._director.configuration(
                device, settings, seq=seq, nonce=secrets.token_hex(16), now_s=now_s
            ),
            issued_at_s=now_s,
            expires_at_s=now_s + ORDER_LIFE_S,
        )
        put_configuration(tx, row)
        return row


def _is_left_behind(tx: Connection, row: ConfigurationRow) -> bool:
    """Whether the device holds, or may hold, a newer one, of which a restored store does not
    know."""
    device = devices.get_device(tx, row.device)
    if device is None or device.unheard:
        return True
    state = last_state(device)
    return state is not None and (state.config_epoch, state.config_seq) > (row.epoch, row.seq)


def _chosen(tx: Connection, order: ConfigureOrder) -> list[DeviceRow]:
    rows = {row.device: row for row in devices.list_devices(tx)}
    if order.devices is not None:
        unknown = sorted(set(order.devices) - set(rows))
        if unknown:
            raise FleetError(
                f"no device {', '.join(unknown)[:300]} is enrolled",
                hint="edge-fleet devices",
                exit_code=ExitCode.NOT_FOUND,
            )
    found = [
        row
        for name, row in rows.items()
        if (order.devices is None or name in order.devices)
        and order.line in ("", row.line)
        and order.hardware in ("", row.hardware)
    ]
    if not found:
        raise FleetError(
            "no enrolled device is of this line and hardware",
            hint="edge-fleet devices",
            exit_code=ExitCode.NOT_FOUND,
        )
    return found
