"""Whether metadata fits the messages that devices accept, before anything is signed for nothing."""

from __future__ import annotations

from collections.abc import Mapping

from tuf.api.metadata import Root, Targets

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.metadata import encode_metadata_set, retained
from fleet.errors import FleetError
from fleet.repository.role_files import Edition, line_role

SIGNATURE_BYTES = 400
"""Of one signature to come in compact JSON with its key id: an Ed25519 one takes 229, one of a
P-256 token 243."""


def check_message_sizes(
    edition: Edition, directors: bytes, to_come: Mapping[str, int] | None = None
) -> None:
    """Whether the newest root and every line's set fit a message.

    Args:
        edition: as it would be retained.
        directors: the bytes of its ``directors.json``.
        to_come: bytes of signatures that are still to be given, by role.

    Raises:
        FleetError: one would be longer than a device accepts.
    """
    more = to_come or {}
    size_bytes = len(edition.roots[-1]) + more.get(Root.type, 0)
    if size_bytes > MESSAGE_LIMIT_BYTES:
        raise FleetError(
            f"the root would be {size_bytes} bytes; devices accept at most {MESSAGE_LIMIT_BYTES}",
            hint="name fewer keys",
        )
    for line in edition.lines:
        own = more.get(Targets.type, 0) + more.get(line_role(line), 0)
        encoded = encode_metadata_set(retained(edition.metadata_set(line, directors)))
        size_bytes = len(encoded) + -(-own * 4 // 3)
        if size_bytes > MESSAGE_LIMIT_BYTES:
            raise FleetError(
                f"the signed metadata of {line!r} would be {size_bytes} bytes; devices accept at"
                f" most {MESSAGE_LIMIT_BYTES}",
                hint=f"withdraw versions that nothing runs any more: edge-fleet line retire {line}"
                " VERSION",
            )
