"""Whether the device installs what a medium brings: the offline roles, and the order on it."""

from __future__ import annotations

import hashlib

import msgspec

from edge_agent.trust.approved import ApprovedLine, ApprovedTarget
from edge_agent.trust.order import DeviceFacts, refused, require_epoch, require_in_force
from edge_agent.trust.verifier import TrustStore
from edge_contract.media import MEDIA_ORDER_TYPE, MediaOrder, MediaSet, decode_media_order
from edge_contract.signing import raw_public_key, verify_document


class LastMedium(msgspec.Struct, frozen=True):
    """The last accepted medium, as the caller keeps it.

    document: SHA-256 (hex) of its order's envelope.
    """

    sequence: int = 0
    document: str = ""


class AcceptedMedia(msgspec.Struct, frozen=True):
    """A medium that is for this device.

    order: what is ordered, for all devices of the set.
    target: the approved bundle that it names.
    last: what to keep, durably, before acting on it.
    issued_at: what to raise the time floor to.
    repeat: the very medium that was accepted last. It is in force still; whether anything is to be
        done for it depends on what came of it, which stands in the device's journal.
    """

    order: MediaOrder
    target: ApprovedTarget
    approved: ApprovedLine
    last: LastMedium
    issued_at: float
    repeat: bool


def verify_media(
    media: MediaSet, store: TrustStore, facts: DeviceFacts, *, last: LastMedium
) -> AcceptedMedia:
    """Check what a medium carries beside its bundle. The bundle itself goes the usual way.

    Args:
        media: ``decode_media_set`` of ``media.json``.
        store: the device's verified metadata; what is verified here is kept in it.
        facts: this device.
        last: the last medium that was accepted; ``LastMedium()`` for none.

    Raises:
        ContractError: malformed.
        TrustError: refused; the message says why. The sequence does not count then.
    """
    if media.line != facts.line:
        raise refused(f"the medium is for line {media.line!r}, this device runs {facts.line!r}")
    approved = store.verify_media(media, reference_s=facts.reference_s)
    keys = [raw_public_key(key.public, where="director") for key in approved.directors.keys]
    payload, signer = verify_document(media.order, MEDIA_ORDER_TYPE, keys, what="media order")
    order = decode_media_order(payload)
    require_in_force(signer, approved, facts, issued_at=order.issued_at, expires=order.expires)
    if (order.fleet, order.line) != (facts.fleet, facts.line):
        raise refused(f"the medium is for {order.fleet}/{order.line}")
    require_epoch(order.epoch, approved)
    mine = (facts.device, facts.device_key, facts.hardware)
    if mine not in {(item.device, item.device_key, item.hardware) for item in order.devices}:
        raise refused(
            f"device {facts.device!r} with its key and hardware {facts.hardware!r} is not in the"
            f" medium's set of {len(order.devices)} devices"
        )
    number = LastMedium(order.sequence, hashlib.sha256(media.order).hexdigest())
    if number != last and order.sequence <= last.sequence:
        raise refused(
            f"replay: expected a medium after sequence {last.sequence}, got {order.sequence}"
        )
    if approved.timestamp_version < order.timestamp_version_min:
        raise refused(
            f"the medium's metadata is held back: offline timestamp version"
            f" {approved.timestamp_version}, its order demands {order.timestamp_version_min}"
        )
    target = approved.require(order.version, order.manifest_digest, held=facts.held)
    return AcceptedMedia(order, target, approved, number, order.issued_at, repeat=number == last)
