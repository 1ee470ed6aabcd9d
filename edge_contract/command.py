"""A command, or a change of its settings, that the manager asks of one device.

Protected like ``desired``: a DSSE envelope by a director key in force, for one fleet, device and
device key, in the anchored epoch, with a nonce that counts once and an expiry.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

from edge_contract.codec import decode_json
from edge_contract.errors import ContractError

COMMAND_TYPE = "application/vnd.wherry.command+json"
COMMAND_LIFE_MAX_S = 7 * 86_400.0
"""The longest life of a command: a device has to remember every nonce for so long."""
_NONCE = re.compile(r"[0-9a-f]{32}")


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked. Times are unix seconds of the manager's clock.

    nonce: 16 random bytes, hexadecimal.
    name: what to do; the device refuses a name that it does not know.
    arguments: flat, so that they can be logged as they are.
    """

    schema: Literal[1] = 1
    fleet: str
    device: str
    device_key: str
    epoch: int
    nonce: str
    issued_at: float
    expires: float
    name: str
    arguments: dict[str, str | float | bool] = {}


def decode_command(payload: bytes) -> Command:
    """Parse the payload of a verified command envelope.

    Raises:
        ContractError: malformed, or longer-lived than ``COMMAND_LIFE_MAX_S``.
    """
    command = decode_json(payload, Command, what="command")
    check_nonce(command.nonce, where="command.nonce")
    if not 0 < command.expires - command.issued_at <= COMMAND_LIFE_MAX_S:
        raise ContractError(
            f"command {command.name[:40]!r}: expected a life of at most {COMMAND_LIFE_MAX_S:.0f} s,"
            f" got {command.expires - command.issued_at:.0f} s"
        )
    return command


def check_nonce(text: str, *, where: str) -> str:
    """``text`` if it is a nonce.

    Raises:
        ContractError: it is not.
    """
    if not _NONCE.fullmatch(text):
        raise ContractError(f"{where}: expected 32 hexadecimal digits, got {text[:80]!r}")
    return text
