"""The time, as the manager signs it for one question of one device.

A device without a clock asks with a nonce on ``ask/time``; only an answer with the same nonce
counts, so an old answer cannot be played back to it.
"""

from __future__ import annotations

from typing import Literal

import msgspec

from edge_contract.codec import decode_json
from edge_contract.command import check_nonce

TIME_TYPE = "application/vnd.wherry.time+json"


class TimeAsk(msgspec.Struct, frozen=True, kw_only=True):
    """``ask/time``: what time is it? ``nonce``: 16 random bytes, hexadecimal."""

    schema: Literal[1] = 1
    nonce: str


class TimeReply(msgspec.Struct, frozen=True, kw_only=True):
    """The payload of the DSSE envelope on ``rsp/time``. ``now`` is unix seconds."""

    schema: Literal[1] = 1
    fleet: str
    device: str
    nonce: str
    now: float


def decode_time_ask(data: bytes, *, where: str) -> TimeAsk:
    """Parse a question.

    Raises:
        ContractError: malformed.
    """
    ask = decode_json(data, TimeAsk, what=where)
    check_nonce(ask.nonce, where=where)
    return ask


def decode_time_reply(payload: bytes) -> TimeReply:
    """Parse the payload of a verified time envelope.

    Raises:
        ContractError: malformed.
    """
    return decode_json(payload, TimeReply, what="time reply")
