"""One record of a device, decoded from one MQTT message and checked for what ingest relies on."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from edge_contract.codec import decode_json, decode_msgpack
from edge_contract.errors import ContractError
from edge_contract.messages import DriftWindow, Event, Header, UpdateStatus
from edge_contract.sketch import DriftSketch
from edge_contract.telemetry import TelemetrySummary, decode_summary
from edge_contract.topics import Topic
from fleet.store.records import RecordRow, Stream

RECORD_CLASSES = frozenset({"telemetry", "telemetry_backfill", "drift", "event", "status"})
"""Classes of topics that carry numbered records; the others carry facts."""

SEQ_MAX = 2**53 - 1
"""Integers stay exact in a JSON or JavaScript reader up to here."""
TS_MAX_S = 2.0**35
"""Unix seconds, either way from 1970: the years 881 to 3058. No page can show all of a float's."""
DIGEST_CHARS = 80
_BOOT_ID_CHARS = 80
_VERSION_CHARS = 128

Message = TelemetrySummary | DriftWindow | Event | UpdateStatus


@dataclass(frozen=True)
class Record:
    """A record that is well-formed and was signed by its device, ready to be taken in."""

    stream: Stream
    row: RecordRow
    message: Message


def decode_record(topic: Topic, payload: bytes, *, received_at_s: float) -> Record:
    """The record in a message of one of ``RECORD_CLASSES``.

    Raises:
        ContractError: an unknown name, malformed, or numbers out of range.
    """
    where = f"{topic.device}/{topic.cls}/{topic.name}"
    message = _decode(topic, payload, where)
    seq_first = message.seq
    severity = "info"
    if isinstance(message, TelemetrySummary | DriftWindow):
        seq_first = message.seq_first
    elif isinstance(message, Event):
        severity = message.severity
    check_header(message, where)
    if not 1 <= seq_first <= message.seq:
        raise ContractError(
            f"{where}: expected 1 <= seq_first <= seq, got {seq_first} and {message.seq}"
        )
    # Backfill is telemetry that comes late: the same counter, the same acknowledgement.
    cls = "telemetry" if topic.cls == "telemetry_backfill" else topic.cls
    return Record(
        stream=Stream(topic.device, message.boot_id, cls),
        row=RecordRow(
            device=topic.device,
            boot_id=message.boot_id,
            cls=cls,
            seq=message.seq,
            seq_first=seq_first,
            name=topic.name,
            severity=severity,
            ts=message.ts,
            received_at_s=received_at_s,
            model_version=message.model_version,
            payload=payload,
        ),
        message=message,
    )


class _Claim(msgspec.Struct, frozen=True):
    """The least that says which record a message is."""

    seq: int
    boot_id: str
    seq_first: int = 0


def claimed_record(topic: Topic, payload: bytes) -> tuple[Stream, int, int] | None:
    """Which record (stream, first, last) a payload that is none says it is; None if it says not.

    Its signature was checked, so only the device itself is believed about its own numbers.
    """
    try:
        if topic.cls == "drift":
            fields = decode_msgpack(payload, list, what="claim")
            first, last, boot_id = fields[2], fields[3], fields[4]
        else:
            claim = decode_json(payload, _Claim, what="claim")
            first, last, boot_id = claim.seq_first or claim.seq, claim.seq, claim.boot_id
    except (ContractError, IndexError):
        return None
    if not isinstance(first, int) or not isinstance(last, int) or not isinstance(boot_id, str):
        return None
    if not 1 <= first <= last <= SEQ_MAX or not 0 < len(boot_id) <= _BOOT_ID_CHARS:
        return None
    cls = "telemetry" if topic.cls == "telemetry_backfill" else topic.cls
    return Stream(topic.device, boot_id, cls), first, last


def check_header(message: Header | DriftWindow, where: str) -> None:
    """Refuse a header that store, log or page could not take.

    Raises:
        ContractError: numbers out of range, or texts that are too long or not printable.
    """
    if not 1 <= message.seq <= SEQ_MAX:
        raise ContractError(f"{where}: expected a seq of 1 to 2^53 - 1, got {message.seq}")
    check_ts(message.ts, f"{where}: ts")
    if not message.boot_id:
        raise ContractError(f"{where}: expected a boot_id")
    check_text(message.boot_id, _BOOT_ID_CHARS, f"{where}: boot_id")
    check_text(message.model_version, _VERSION_CHARS, f"{where}: model_version")


def check_ts(ts: float, where: str) -> None:
    """Refuse a time that no page could show.

    Raises:
        ContractError: it is out of range, or no number.
    """
    if not abs(ts) <= TS_MAX_S:
        raise ContractError(f"{where}: expected unix seconds of at most 2^35, got {ts}")


def check_text(text: str, chars_max: int, where: str) -> None:
    """Refuse a text that is too long or not printable.

    Raises:
        ContractError: it is.
    """
    if len(text) > chars_max or not text.isprintable():
        raise ContractError(f"{where}: expected at most {chars_max} printable characters")


def check_order_number(seq: int, where: str) -> None:
    """Refuse a ``desired`` number that no fleet can have given.

    Raises:
        ContractError: it is out of range.
    """
    if not 0 <= seq <= SEQ_MAX:
        raise ContractError(f"{where}: expected an order's number of 0 to 2^53 - 1, got {seq}")


def _decode(topic: Topic, payload: bytes, where: str) -> Message:
    if topic.cls == "event":
        event = decode_json(payload, Event, what=where)
        if event.name != topic.name:
            raise ContractError(f"{where}: the payload names the event {event.name[:80]!r}")
        return event
    if (topic.cls, topic.name) == ("status", "update"):
        status = decode_json(payload, UpdateStatus, what=where)
        check_order_number(status.desired_seq, where)
        check_text(status.digest, DIGEST_CHARS, f"{where}: digest")
        return status
    if topic.cls in ("telemetry", "telemetry_backfill") and topic.name == "summary":
        return decode_summary(payload)
    if (topic.cls, topic.name) == ("drift", "summary"):
        window = decode_msgpack(payload, DriftWindow, what=where)
        DriftSketch.decode(window.sketch)
        if window.schema != 1:
            raise ContractError(f"{where}: expected schema 1, got {window.schema}")
        return window
    raise ContractError(f"{where}: no record of this name is known")
