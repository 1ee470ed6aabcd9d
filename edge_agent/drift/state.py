"""How the drift code keeps its state: MessagePack arrays, refused as a whole when damaged."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from edge_contract.errors import ContractError

StateT = TypeVar("StateT", bound=msgspec.Struct)

FRESH_STATE_HINT = "start with a fresh state; the device then commissions itself again"


def decode_state(data: bytes, kind: type[StateT], what: str) -> StateT:
    """The state of type ``kind`` that ``data`` holds.

    Raises:
        ContractError: not the agreed form; ``what`` names the state.
    """
    try:
        return msgspec.msgpack.decode(data, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(
            f"{what}: expected MessagePack of the agreed form, got {len(data)} bytes that are "
            f"not: {error}",
            hint=FRESH_STATE_HINT,
        ) from error
