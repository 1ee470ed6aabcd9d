"""What operators order about settings: a dry run, or signed, stored and published. On the loop."""

from __future__ import annotations

from edge_contract.errors import WherryError
from fleet.manager.configuration_view import PlannedConfiguration
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.loop import Manager
from fleet.manager.rollouts import RolloutTurn
from fleet.store import journal
from fleet.store.configurations import get_configuration

_NAMED_MAX = 3


def plan(manager: Manager, order: ConfigureOrder) -> list[PlannedConfiguration]:
    """What ``configure`` would do now. Changes nothing.

    Raises:
        FleetError: an unknown device is named, or none is left.
    """
    with manager.store.read() as tx:
        return manager.configurations.plan(tx, order)


def configure(manager: Manager, order: ConfigureOrder, *, who: str) -> list[PlannedConfiguration]:
    """Want it of the devices; those that are away get it when they come back.

    Raises:
        FleetError: as ``plan``, or the director key is missing.
    """
    wish = ", ".join(
        [*(f"{k}={v}" for k, v in order.settings.items()), *(f"{k} unset" for k in order.unset)]
    )

    def change(turn: RolloutTurn) -> list[PlannedConfiguration]:
        planned = manager.configurations.change(turn.tx, order, turn.now_s)
        subject = _named([item.device for item in planned])
        manager.audit.record(who, "configure", subject, wish)
        journal.add_audit(turn.tx, turn.now_s, who, "configure", subject, wish, "done")
        for item in planned:
            if item.changes:
                text = f"{item.device}: wanted by {who}: {wish}"
                journal.add_log(turn.tx, turn.now_s, "device", item.device, text)
        return planned

    def run() -> list[PlannedConfiguration]:
        try:
            planned = manager.transact(change)
        except WherryError as error:
            subject = _named(order.devices or [])
            manager.audit.record_refusal(who, "configure", subject, wish, error.message)
            raise
        changed = [item.device for item in planned if item.changes]
        with manager.store.read() as tx:
            rows = [get_configuration(tx, device) for device in changed]
        manager.configuration_desk.give(row for row in rows if row is not None)
        return planned

    return manager.do(run)


def _named(devices: list[str]) -> str:
    more = len(devices) - _NAMED_MAX
    named = ", ".join(device[:30] for device in devices[:_NAMED_MAX])
    return f"{named} and {more} more" if more > 0 else named
