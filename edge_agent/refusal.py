"""An order or metadata that was refused, and what it said of itself."""

from __future__ import annotations

import base64
import json

import msgspec

from edge_contract.desired import Desired, decode_desired
from edge_contract.errors import ContractError


class Refusal(msgspec.Struct, frozen=True):
    """An order or metadata that was refused.

    claimed: what the document says of itself, unverified: to name it in the report, no more.
    """

    reason: str
    claimed: Desired | None = None


def claimed_by(envelope: bytes) -> Desired | None:
    """The document in ``envelope``, whoever signed it; None where it cannot be read."""
    try:
        return decode_desired(base64.b64decode(json.loads(envelope)["payload"]))
    except (ContractError, ValueError, KeyError, TypeError, RecursionError):
        return None
