"""Canonical JSON and bounded decoding for every document that the two sides exchange.

Canonical means: UTF-8, keys in the order of the type's fields (dictionaries sorted), no blanks.
The same value always gives the same bytes, so a digest of a document is well defined.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from edge_contract.errors import ContractError

T = TypeVar("T")

MESSAGE_LIMIT_BYTES = 128 * 1024
"""The largest MQTT payload of ours, blob blocks included (AWS IoT Core's limit)."""

DOCUMENT_LIMIT_BYTES = 1024 * 1024
"""The largest JSON document inside a bundle or a TUF repository that is parsed whole."""

_encoder = msgspec.json.Encoder(order="deterministic")


def encode_json(value: Any) -> bytes:
    """``value`` (a msgspec type or plain data) as canonical JSON bytes."""
    return _encoder.encode(value)


def decode_json(
    data: bytes, type_: type[T], *, what: str, limit_bytes: int = MESSAGE_LIMIT_BYTES
) -> T:
    """Parse ``data`` as ``type_``.

    Args:
        data: the raw bytes as they came.
        type_: a msgspec type.
        what: what the bytes are and where they came from, for the error message.
        limit_bytes: refuse anything longer before parsing.

    Raises:
        ContractError: too long, not JSON, or not of the type.
    """
    if len(data) > limit_bytes:
        raise ContractError(
            f"{what}: {len(data)} bytes, at most {limit_bytes} are accepted",
        )
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{what}: not a valid {type_.__name__}: {error}") from error


def encode_msgpack(value: Any) -> bytes:
    """``value`` as deterministic MessagePack bytes."""
    return msgspec.msgpack.Encoder(order="deterministic").encode(value)


def decode_msgpack(
    data: bytes, type_: type[T], *, what: str, limit_bytes: int = MESSAGE_LIMIT_BYTES
) -> T:
    """Like ``decode_json`` for MessagePack.

    Raises:
        ContractError: too long, not MessagePack, or not of the type.
    """
    if len(data) > limit_bytes:
        raise ContractError(f"{what}: {len(data)} bytes, at most {limit_bytes} are accepted")
    try:
        return msgspec.msgpack.decode(data, type=type_)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ContractError(f"{what}: not a valid {type_.__name__}: {error}") from error
