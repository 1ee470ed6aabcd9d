"""What a batch of messages came to. Nothing of it may be acted on before the commit."""

from __future__ import annotations

from dataclasses import dataclass, field

from edge_contract.messages import BlobAsk, DeltaAsk
from edge_contract.signed_time import TimeAsk
from fleet.identity.desk import Answered
from fleet.manager.enrolment import Enrolment
from fleet.store.records import Stream


@dataclass
class Taken:
    """Filled by an ``IntakePage``, carried out by the loop."""

    enrolments: list[Enrolment] = field(default_factory=list)
    asks: list[tuple[str, BlobAsk]] = field(default_factory=list)
    time_asks: list[tuple[str, TimeAsk]] = field(default_factory=list)
    delta_asks: list[tuple[str, DeltaAsk]] = field(default_factory=list)
    heard: set[str] = field(default_factory=set)
    """Devices that are known to be connected now."""
    back: set[str] = field(default_factory=set)
    """Devices that have said for the first time since a backup was restored where they stand."""
    gone: set[str] = field(default_factory=set)
    changes: dict[tuple[str, str], str] = field(default_factory=dict)
    """(kind, subject) -> text for the feed."""
    acks: dict[Stream, list[tuple[int, int]]] = field(default_factory=dict)
    refused: list[tuple[Stream, list[tuple[int, int]], str]] = field(default_factory=list)
    """Records that will never be stored, and why."""
    certified: list[tuple[str, Answered]] = field(default_factory=list)
    """(nonce of the first contact, or "" for a renewal; the answer)."""
