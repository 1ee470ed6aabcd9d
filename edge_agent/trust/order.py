"""Whether the device obeys a ``desired`` document. Pure: all facts come in, nothing is written.

Uptane's rule: the director chooses, among what the image repository approved. So a stolen
director key can order another approved version of the same line, and nothing else.
"""

from __future__ import annotations

import hashlib
from typing import Protocol

import msgspec

from edge_agent.trust.approved import ApprovedLine, ApprovedTarget
from edge_contract.desired import DESIRED_TYPE, Desired, decode_desired
from edge_contract.errors import TrustError
from edge_contract.signing import fingerprint, verify_document


class LastOrder(msgspec.Struct, frozen=True):
    """The last accepted order, as the caller keeps it.

    document: SHA-256 (hex) of the envelope's bytes.
    """

    epoch: int
    seq: int
    document: str


class DeviceFacts(msgspec.Struct, frozen=True):
    """What this device is, and what it has accepted so far.

    device_key: fingerprint of its own key.
    reference_s: the time to check expiry against (``TimeFloor.reference_s``).
    last: None before the first accepted order.
    held: digests of the bundles in its slots; they may come back below the floor.
    """

    fleet: str
    device: str
    device_key: str
    line: str
    hardware: str
    reference_s: float
    last: LastOrder | None = None
    held: frozenset[str] = frozenset()


class AcceptedOrder(msgspec.Struct, frozen=True):
    """An order to carry out.

    target: the approved bundle that it names; None when it is a repeat.
    last: what to keep, durably, before acting on the order.
    issued_at: what to raise the time floor to.
    repeat: the very order accepted before. Nothing is to be done for it: what came of it
        stands in the device's journal.
    """

    desired: Desired
    target: ApprovedTarget | None
    last: LastOrder
    issued_at: float
    repeat: bool


def accept_order(envelope: bytes, approved: ApprovedLine, facts: DeviceFacts) -> AcceptedOrder:
    """Check one ``desired`` envelope.

    The order's own ``issued_at`` counts as the present where it is later than what the device
    knows: neither the director's key nor any of the metadata may have expired by then. That is
    also what bounds how far a stolen director key can push the time floor.

    Args:
        envelope: the retained payload, as it came.
        approved: the verified metadata of the device's line.
        facts: this device.

    Raises:
        ContractError: malformed.
        TrustError: refused; the message says why. Nothing of the order counts, its ``seq``
            neither.
    """
    document = hashlib.sha256(envelope).hexdigest()
    keys = {bytes.fromhex(key.public): key for key in approved.directors.keys}
    last = facts.last
    payload, signer = verify_document(envelope, DESIRED_TYPE, keys, what="desired document")
    desired = decode_desired(payload)
    number = LastOrder(desired.epoch, desired.seq, document)
    if last == number:
        return AcceptedOrder(desired, None, number, desired.issued_at, repeat=True)

    require_in_force(signer, approved, facts, issued_at=desired.issued_at, expires=desired.expires)
    check_addressee(desired, facts)
    if desired.line != facts.line or desired.hardware != facts.hardware:
        raise refused(
            f"it is for line {desired.line!r} on hardware {desired.hardware!r}, this is"
            f" {facts.line!r} on {facts.hardware!r}"
        )
    require_epoch(desired.epoch, approved)
    if last is not None and (desired.epoch, desired.seq) <= (last.epoch, last.seq):
        raise refused(
            f"replay: expected an order after epoch {last.epoch} seq {last.seq}, got epoch"
            f" {desired.epoch} seq {desired.seq}"
        )
    if approved.timestamp_version < desired.timestamp_version_min:
        raise refused(
            f"the device's metadata is held back: it has timestamp version"
            f" {approved.timestamp_version}, the order demands {desired.timestamp_version_min}"
        )
    target = approved.require(desired.version, desired.manifest_digest, held=facts.held)
    return AcceptedOrder(desired, target, number, desired.issued_at, repeat=False)


class Addressed(Protocol):
    """What orders and commands have in common: whom they are for."""

    @property
    def fleet(self) -> str: ...
    @property
    def device(self) -> str: ...
    @property
    def device_key(self) -> str: ...


def check_addressee(document: Addressed, facts: DeviceFacts) -> None:
    """Whether a document is for this very device.

    Raises:
        TrustError: it is for another fleet, device or device key.
    """
    for what, ordered, own in (
        ("fleet", document.fleet, facts.fleet),
        ("device", document.device, facts.device),
        ("device key", document.device_key, facts.device_key),
    ):
        if ordered != own:
            raise refused(f"it is for {what} {ordered!r}, this is {own!r}")


def require_in_force(
    signer: str,
    approved: ApprovedLine,
    facts: DeviceFacts,
    *,
    issued_at: float,
    expires: float,
) -> float:
    """The time that a signed document counts at, if key, document and metadata are in force then.

    Args:
        signer: fingerprint of the director key that signed it.
        approved: the verified metadata of the device's line.
        facts: this device.
        issued_at: when the document says that it was signed (unix s).
        expires: until when it says that it counts (unix s).

    Returns:
        the later of what the device knows and ``issued_at``, unix seconds.

    Raises:
        TrustError: the key is out of scope or expired, or the document or the metadata is.
    """
    now_s = max(facts.reference_s, issued_at)
    trusted = approved.directors.trusted(facts.fleet, facts.line, now_s)
    if signer not in {fingerprint(public) for public in trusted}:
        raise refused(
            f"its director key {signer[:16]}… may not give orders for fleet {facts.fleet!r}, line"
            f" {facts.line!r}, or has expired by {now_s:.0f}"
        )
    if expires <= now_s:
        raise refused(f"expired at {expires:.0f}, the time is {now_s:.0f} or later")
    if approved.expires_s <= now_s:
        raise refused(
            f"the metadata of {facts.line!r} expires at {approved.expires_s:.0f}, the order was"
            f" issued, or the time is, {now_s:.0f}"
        )
    return now_s


def require_epoch(epoch: int, approved: ApprovedLine) -> None:
    """Whether a document is of the epoch that offline keys signed.

    Raises:
        TrustError: it is of an earlier one, or of one that nobody but the director claims.
    """
    anchored = approved.directors.epoch
    if epoch < anchored:
        raise refused(f"epoch {epoch} is over: offline keys signed epoch {anchored}")
    if epoch > anchored:
        raise refused(
            f"epoch {epoch} was not begun by offline keys: they signed epoch {anchored}, and the"
            " director cannot raise it"
        )


def refused(reason: str) -> TrustError:
    """The refusal of an order, in the words that the log shows."""
    return TrustError(f"order refused: {reason}", docs="explanation/trust.md")
