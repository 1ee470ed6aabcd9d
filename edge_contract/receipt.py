"""What a medium brings back: the very messages that a device would have sent over MQTT.

Each is signed by the device over its topic, so the fleet checks and stores it as if it had come
over the wire; importing it twice changes nothing.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import (
    DOCUMENT_LIMIT_BYTES,
    MESSAGE_LIMIT_BYTES,
    decode_json,
    encode_json,
)
from edge_contract.errors import ContractError
from edge_contract.topics import parse_topic

RECEIPTS_DIR = "receipts"
MESSAGES_MAX = 64
CLASSES = ("status", "state")
"""What a device writes into a receipt. Questions and enrolments never come by hand."""


class SignedMessage(msgspec.Struct, frozen=True, kw_only=True):
    """One message. ``signature``: as the MQTT user property has it."""

    topic: str
    payload: bytes
    signature: str


class Receipt(msgspec.Struct, frozen=True, kw_only=True):
    """What one device did with one medium, oldest step first."""

    schema: Literal[1] = 1
    device: str
    messages: list[SignedMessage]


def encode_receipt(receipt: Receipt) -> bytes:
    """Canonical JSON bytes."""
    return encode_json(receipt)


def decode_receipt(data: bytes, *, where: str) -> Receipt:
    """Parse a receipt; nothing in it is verified yet.

    Raises:
        ContractError: malformed, too many messages, or one that no receipt holds.
    """
    receipt = decode_json(data, Receipt, what=where, limit_bytes=DOCUMENT_LIMIT_BYTES)
    if not 0 < len(receipt.messages) <= MESSAGES_MAX:
        raise ContractError(
            f"{where}: {len(receipt.messages)} messages, expected 1 to {MESSAGES_MAX}"
        )
    for message in receipt.messages:
        topic = parse_topic(message.topic)
        if topic.device != receipt.device or topic.cls not in CLASSES:
            raise ContractError(
                f"{where}: expected steps and the state of {receipt.device!r:.80}, got"
                f" {message.topic!r:.160}"
            )
        if max(len(message.payload), 64 * len(message.signature)) > MESSAGE_LIMIT_BYTES:
            raise ContractError(f"{where}: a message or its signature is too long")
    return receipt
