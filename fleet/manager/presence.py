"""Is a device there, and which of its retained facts is the newest? Pure rules on device rows.

A will is written when a device connects and published when that connection dies, perhaps long
after the device has come back over another one. So every connection has an id, and the word of a
connection that is not the newest is stale. "Newest" is by sequence number within one boot; between
boots, where clocks may have jumped, a live message beats a retained one, and then by the clock.
"""

from __future__ import annotations

from msgspec.structs import replace

from edge_contract.codec import decode_json
from edge_contract.messages import AgentState, Header, Online
from fleet.store.devices import DeviceRow


def hear_online(row: DeviceRow, message: Online, *, retained: bool) -> DeviceRow | None:
    """The row after ``state/online``; None when the message is stale."""
    if message.connection_id == row.connection_id:
        return replace(row, online=message.online)
    # A will is delivered live, too: only a device that says "online" speaks for itself.
    live = message.online and not retained
    if not (live or _newer_connection(row, message)):
        return None
    return _on_connection(row, message, message.connection_id, online=message.online)


def hear_state(
    row: DeviceRow, message: AgentState, payload: bytes, *, retained: bool, now_s: float
) -> DeviceRow | None:
    """The row after ``state/agent``; None when it is older than the one that is stored."""
    if row.state is not None:
        last = decode_json(row.state, AgentState, what="stored state")
        if last.boot_id == message.boot_id:
            newer = message.seq > last.seq
        else:
            newer = not retained or message.ts >= last.ts
        if not newer:
            # The very word that a restored backup knows: the device has not gone on since.
            known = row.unheard and message == last
            return replace(row, unheard=False) if known else None
    row = replace(
        row,
        state=payload,
        state_at_s=now_s,
        agent_version=message.agent_version,
        reported_epoch=message.desired_epoch,
        reported_seq=message.desired_seq,
        unheard=False,
    )
    # Without a connection it came by hand, on a medium, and says nothing of being online.
    if (
        message.connection_id
        and message.connection_id != row.connection_id
        and (not retained or _newer_connection(row, message))
    ):
        row = _on_connection(row, message, message.connection_id, online=True)
    return row


def _newer_connection(row: DeviceRow, message: Header) -> bool:
    if not row.connection_id:
        return True
    if message.boot_id == row.connection_boot_id:
        return message.seq > row.connection_seq
    return message.ts >= row.connection_ts


def _on_connection(
    row: DeviceRow, message: Header, connection_id: str, *, online: bool
) -> DeviceRow:
    return replace(
        row,
        online=online,
        connection_id=connection_id,
        connection_boot_id=message.boot_id,
        connection_seq=message.seq,
        connection_ts=message.ts,
    )
