"""One record of a device, decoded from one MQTT message and checked for what ingest relies on."""

from __future__ import annotations

import math
from dataclasses import dataclass

from edge_contract.codec import decode_json, decode_msgpack
from edge_contract.errors import ContractError
from edge_contract.messages import DriftWindow, Event, UpdateStatus
from edge_contract.sketch import DriftSketch
from edge_contract.telemetry import TelemetrySummary, decode_summary
from edge_contract.topics import Topic
from fleet.store.records import RecordRow, Stream

RECORD_CLASSES = frozenset({"telemetry", "telemetry_backfill", "drift", "event", "status"})
"""Classes of topics that carry numbered records; the others carry facts."""

_SEQ_MAX = 2**53 - 1
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
    if not 1 <= seq_first <= message.seq <= _SEQ_MAX:
        raise ContractError(
            f"{where}: expected 1 <= seq_first <= seq <= 2^53 - 1, got {seq_first}"
            f" and {message.seq}"
        )
    if not 1 <= len(message.boot_id) <= _BOOT_ID_CHARS:
        raise ContractError(f"{where}: expected a boot_id of 1 to {_BOOT_ID_CHARS} characters")
    if len(message.model_version) > _VERSION_CHARS:
        raise ContractError(f"{where}: expected a model_version of at most {_VERSION_CHARS}")
    if not math.isfinite(message.ts):
        raise ContractError(f"{where}: expected a finite ts, got {message.ts}")
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


def _decode(topic: Topic, payload: bytes, where: str) -> Message:
    if topic.cls == "event":
        event = decode_json(payload, Event, what=where)
        if event.name != topic.name:
            raise ContractError(f"{where}: the payload names the event {event.name[:80]!r}")
        return event
    if (topic.cls, topic.name) == ("status", "update"):
        return decode_json(payload, UpdateStatus, what=where)
    if topic.cls in ("telemetry", "telemetry_backfill") and topic.name == "summary":
        return decode_summary(payload)
    if (topic.cls, topic.name) == ("drift", "summary"):
        window = decode_msgpack(payload, DriftWindow, what=where)
        DriftSketch.decode(window.sketch)
        if window.schema != 1:
            raise ContractError(f"{where}: expected schema 1, got {window.schema}")
        return window
    raise ContractError(f"{where}: no record of this name is known")
