"""The devices of one batch: their rows as they change, who is there, and what they say of
themselves."""

from __future__ import annotations

import msgspec
from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ContractError
from edge_contract.messages import AgentState, Online
from edge_contract.topics import Topic
from fleet.manager import presence
from fleet.manager.connection import Inbound
from fleet.manager.enrolment import AGENT_VERSION_CHARS
from fleet.manager.rollouts import RolloutTurn
from fleet.manager.taken import Taken
from fleet.rollout.events import DeviceFacts, DeviceOffline, DeviceOnline
from fleet.store import devices
from fleet.store.devices import DeviceRow
from fleet.telemetry.record import (
    DIGEST_CHARS,
    check_header,
    check_order_number,
    check_text,
    check_ts,
)

_CONNECTION_ID_CHARS = 80
_REASON_CHARS = 500
_SETTINGS_MAX = 32


class Roster:
    """Reads each row once and writes it once, if it changed.

    Args:
        tx: the batch's transaction.
        turn: hears of devices that come and go, and of what they run.
        taken: notes who is there.
    """

    def __init__(self, tx: Connection, turn: RolloutTurn, taken: Taken) -> None:
        self._tx = tx
        self._turn = turn
        self._now_s = turn.now_s
        self._taken = taken
        self._rows: dict[str, DeviceRow] = {}
        self._stored: dict[str, DeviceRow | None] = {}

    def row(self, device: str) -> DeviceRow | None:
        """The row as it stands now; None for a device that never enrolled."""
        if device not in self._rows:
            row = self._stored[device] = devices.get_device(self._tx, device)
            if row is not None:
                self._rows[device] = row
        return self._rows.get(device)

    def known(self, device: str) -> DeviceRow:
        """The row of a device whose key is pinned."""
        row = self.row(device)
        assert row is not None, device
        return row

    def put(self, row: DeviceRow, **changes: object) -> None:
        """The row with these changes; of a new device too, once ``row`` was asked for it."""
        self._rows[row.device] = msgspec.structs.replace(row, **changes)

    def hear_state(self, row: DeviceRow, topic: Topic, message: Inbound) -> None:
        """``state/agent`` or ``state/online``.

        Raises:
            ContractError: malformed, or another name.
        """
        if topic.name == "online":
            online = decode_json(message.payload, Online, what=message.topic)
            check_header(online, message.topic)
            check_text(online.connection_id, _CONNECTION_ID_CHARS, message.topic)
            after = presence.hear_online(row, online, retained=message.retained)
        elif topic.name == "agent":
            state = decode_json(message.payload, AgentState, what=message.topic)
            _check_state(state, message.topic)
            after = presence.hear_state(
                row, state, message.payload, retained=message.retained, now_s=self._now_s
            )
            if after is not None:
                facts = DeviceFacts(
                    now_s=self._now_s,
                    device=row.device,
                    digest=state.active_digest,
                    number=(state.desired_epoch, state.desired_seq),
                    opens_at_s=state.update_opens_ts,
                )
                self._turn.feed(row.line, facts)
        else:
            raise ContractError(f"{message.topic}: expected state/agent or state/online")
        if after is None:
            return
        if row.unheard and not after.unheard:
            self._taken.back.add(row.device)
        self._rows[row.device] = after
        if after.online:
            self.mark_online(after, retained=message.retained, was=row.online)
        elif row.online:
            self._taken.heard.discard(row.device)
            self._taken.gone.add(row.device)
            self._turn.feed(row.line, DeviceOffline(now_s=self._now_s, device=row.device))

    def mark_online(self, row: DeviceRow, *, retained: bool, was: bool | None = None) -> None:
        """The device is connected: it speaks now, or its retained word says so."""
        before = row.online if was is None else was
        if retained and not row.online:
            return
        seen = row.last_seen_at_s if retained else self._now_s
        self.put(row, online=True, last_seen_at_s=seen)
        self._taken.heard.add(row.device)
        self._taken.gone.discard(row.device)
        if not before:
            self._turn.feed(row.line, DeviceOnline(now_s=self._now_s, device=row.device))

    def write(self) -> None:
        """Write what changed into the transaction."""
        for device, row in self._rows.items():
            before = self._stored[device]
            if before is None:
                devices.add_device(self._tx, row)
            elif row != before:
                old, new = msgspec.structs.asdict(before), msgspec.structs.asdict(row)
                changed = {name: value for name, value in new.items() if value != old[name]}
                devices.change_device(self._tx, device, **changed)


def _check_state(state: AgentState, where: str) -> None:
    check_header(state, where)
    check_order_number(state.desired_seq, where)
    check_order_number(state.desired_epoch, where)
    check_text(state.connection_id, _CONNECTION_ID_CHARS, where)
    check_text(state.agent_version, AGENT_VERSION_CHARS, where)
    check_order_number(state.config_seq, where)
    check_order_number(state.config_epoch, where)
    check_ts(state.update_opens_ts, f"{where}: update_opens_ts")
    for text in (state.update_waits_for, state.config_refused):
        check_text(text, _REASON_CHARS, where)
    if len(state.settings) > _SETTINGS_MAX or len(state.settings_limited) > _SETTINGS_MAX:
        raise ContractError(f"{where}: more than {_SETTINGS_MAX} settings")
    words = (value for value in state.settings.values() if isinstance(value, str))
    for text in (*state.settings, *state.settings_limited, *words):
        check_text(text, _CONNECTION_ID_CHARS, where)
    for digest in (state.active_digest, state.fallback_digest):
        check_text(digest, DIGEST_CHARS, where)
