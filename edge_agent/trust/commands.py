"""Whether the device does what a command asks: the rules of an order, and a nonce that counts once.

The nonces of commands are remembered, durably and before the command is carried out, until they
have expired by the device's own reference time; so a command cannot be played back to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import msgspec

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.kept_file import read_kept
from edge_agent.trust.order import (
    DeviceFacts,
    check_addressee,
    refused,
    require_epoch,
    require_in_force,
)
from edge_contract.codec import decode_json, encode_json
from edge_contract.command import COMMAND_TYPE, Command, decode_command
from edge_contract.errors import ContractError
from edge_contract.layout import write_durably
from edge_contract.signing import raw_public_key, verify_document

NONCES_MAX = 256
"""Commands that may be alive at once; more are refused, so that the file stays small."""


class UsedNonces(msgspec.Struct, frozen=True):
    """nonce -> when the command that bore it expires (unix s)."""

    expires: Mapping[str, float]

    def with_used(self, command: Command, now_s: float) -> UsedNonces:
        """After ``command``: those that have expired by ``now_s`` are forgotten.

        Raises:
            TrustError: the nonce was used, or too many commands are alive.
        """
        if command.nonce in self.expires:
            raise refused(f"replay: the command with nonce {command.nonce} was carried out before")
        alive = {nonce: until for nonce, until in self.expires.items() if until > now_s}
        if len(alive) >= NONCES_MAX:
            raise refused(f"{NONCES_MAX} commands are alive already; wait until one expires")
        return UsedNonces({**alive, command.nonce: command.expires})


class AcceptedCommand(msgspec.Struct, frozen=True):
    """A command to carry out, once ``used`` is kept."""

    command: Command
    used: UsedNonces


def accept_command(
    envelope: bytes, approved: ApprovedLine, facts: DeviceFacts, used: UsedNonces
) -> AcceptedCommand:
    """Check one command envelope. Pure.

    Args:
        envelope: as it came on ``cmd/…``.
        approved: the verified metadata of the device's line.
        facts: this device.
        used: the nonces seen so far.

    Raises:
        ContractError: malformed.
        TrustError: refused; the message says why.
    """
    keys = [raw_public_key(key.public, where="director") for key in approved.directors.keys]
    payload, signer = verify_document(envelope, COMMAND_TYPE, keys, what="command")
    command = decode_command(payload)
    now_s = require_in_force(
        signer, approved, facts, issued_at=command.issued_at, expires=command.expires
    )
    check_addressee(command, facts)
    require_epoch(command.epoch, approved)
    # By the device's own time: a stolen key must not make it forget nonces by claiming a late one.
    return AcceptedCommand(command, used.with_used(command, min(now_s, facts.reference_s)))


class _NonceFile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    schema: int = 1
    expires: dict[str, float]


def load_nonces(path: Path) -> UsedNonces:
    """The nonces that were kept; none if there is no file.

    Raises:
        DamagedTrustError: the file is damaged. Starting anew would let old commands count again.
    """
    data = read_kept(path)
    if data is None:
        return UsedNonces({})
    try:
        return UsedNonces(decode_json(data, _NonceFile, what=str(path)).expires)
    except ContractError as error:
        raise DamagedTrustError(
            f"{error}; commands stop, what runs keeps running",
            hint=f"if the disk was damaged and the device is yours, remove {path}",
        ) from error


def save_nonces(path: Path, used: UsedNonces) -> None:
    """Keep the nonces; durable when this returns."""
    write_durably(path, encode_json(_NonceFile(expires=dict(used.expires))))
