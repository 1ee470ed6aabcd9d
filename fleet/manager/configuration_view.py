"""What the fleet wants of a device's settings and what the device has, as people see it."""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.configuration import Value
from edge_contract.messages import AgentState
from fleet.store.configurations import ConfigurationRow

ConfigurationStatus = Literal["none", "waiting", "applied", "refused"]


class ConfigurationView(msgspec.Struct, frozen=True, kw_only=True):
    """Wanted and has.

    status: ``none`` (nothing was ever wanted), ``waiting`` (the device has not said that it took
        it), ``applied`` (what is wanted is in force, but for ``limited``), ``refused``.
    reason: why it was refused, in the device's words.
    wanted: what the fleet wants; settings that are not named are left to the device.
    has: what holds on the device, as it said last; empty before it did.
    limited: settings where the device's own, stricter value holds against the fleet's.
    seq: number of what is wanted; 0 for nothing.
    """

    status: ConfigurationStatus
    reason: str
    wanted: dict[str, Value]
    has: dict[str, Value]
    limited: list[str]
    seq: int


class PlannedConfiguration(msgspec.Struct, frozen=True, kw_only=True):
    """What is, or would be, wanted of one device, before and after."""

    device: str
    online: bool
    before: dict[str, Value]
    after: dict[str, Value]
    changes: bool


def configuration_view(
    row: ConfigurationRow | None, state: AgentState | None, heard_at_s: float
) -> ConfigurationView:
    """Of one device.

    Args:
        row: what is wanted of it.
        state: what it said last.
        heard_at_s: when it said so, by the manager's clock. A refusal that was said before the wish
            was signed is of the wish before.
    """
    status: ConfigurationStatus = "none"
    reason = ""
    if row is not None:
        status = "waiting"
        if state is not None and (state.config_epoch, state.config_seq) == (row.epoch, row.seq):
            status = "applied"
        if state is not None and state.config_refused and heard_at_s > row.issued_at_s:
            status, reason = "refused", state.config_refused
    return ConfigurationView(
        status=status,
        reason=reason,
        wanted=row.settings if row else {},
        has=state.settings if state else {},
        limited=state.settings_limited if state else [],
        seq=row.seq if row else 0,
    )
