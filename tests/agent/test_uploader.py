"""The uploader: nothing leaves the spool before the fleet's own word, nothing is sent for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.uploader import IN_FLIGHT_MAX, RESEND_MAX_S, Uploader
from edge_contract.codec import encode_json
from edge_contract.errors import ContractError
from edge_contract.messages import Ack, Event, RecordRefused

RESEND_S = 10.0


class Wire:
    """A spool, an uploader, and what went over the wire."""

    def __init__(self, path: Path) -> None:
        self.spool = Spool.open(
            path / "spool.db",
            cap_bytes=4_000_000,
            quotas={"telemetry": 0.45, "drift": 0.25, "event": 0.2, "status": 0.1},
            boot_id="boot-1",
            merge={},
            clock=lambda: 0.0,
        )
        self.sent: list[tuple[str, str, int]] = []
        self.takes = True
        self.uploader = Uploader(self.spool, self.publish, RESEND_S)

    def publish(self, cls: str, name: str, payload: bytes) -> bool:
        self.sent.append((cls, name, json.loads(payload)["seq"]))
        return self.takes

    def events(self, count: int, cls: str = "event") -> None:
        for _ in range(count):
            self.spool.append(cls, lambda seq: encode_json(event(seq)))
        self.spool.flush()

    def seqs(self) -> list[int]:
        sent, self.sent = self.sent, []
        return [seq for _, _, seq in sent]

    def ack(self, first: int, last: int, now_s: float, *, cls: str = "event") -> None:
        ack = Ack(cls=cls, boot_id="boot-1", ranges=[(first, last)])
        self.uploader.acknowledged(encode_json(ack), now_s)

    def waiting(self) -> int:
        return sum(c.records for c in self.spool.stats().classes.values())


def event(seq: int) -> Event:
    return Event(
        ts=0.0, seq=seq, boot_id="boot-1", model_version="", name="n", severity="info", text=""
    )


@pytest.fixture
def wire(tmp_path: Path) -> Iterator[Wire]:
    made = Wire(tmp_path)
    yield made
    made.spool.close()


def test_offline_nothing_is_sent_and_nothing_forgotten(wire: Wire) -> None:
    wire.events(3)
    for second in range(100):
        wire.uploader.tick(float(second))
    assert wire.seqs() == []
    wire.uploader.connected(100.0)
    assert wire.seqs() == [1, 2, 3]


def test_only_the_fleets_word_trims(wire: Wire) -> None:
    wire.events(3)
    wire.uploader.connected(0.0)
    assert wire.waiting() == 3
    wire.ack(1, 2, 1.0)
    wire.spool.flush()
    assert wire.uploader.in_flight_count == 1
    wire.uploader.disconnected()
    wire.seqs()
    wire.uploader.connected(2.0)
    assert wire.seqs() == [3]


def test_what_is_not_acknowledged_goes_again_after_a_silence_and_not_before(wire: Wire) -> None:
    wire.events(2)
    wire.uploader.connected(0.0)
    wire.seqs()
    wire.uploader.tick(RESEND_S - 0.1)
    assert wire.seqs() == []
    wire.uploader.tick(RESEND_S)
    assert wire.seqs() == [1, 2]


def test_a_manager_that_is_away_behind_a_broker_does_not_eat_a_metered_link(wire: Wire) -> None:
    wire.events(IN_FLIGHT_MAX)
    wire.uploader.connected(0.0)
    for second in range(86_400):
        wire.uploader.tick(float(second))
    assert len(wire.seqs()) / IN_FLIGHT_MAX < 10 + 86_400 / RESEND_MAX_S


def test_a_word_of_the_fleet_ends_the_long_wait(wire: Wire) -> None:
    wire.events(1)
    wire.uploader.connected(0.0)
    for second in range(2000):
        wire.uploader.tick(float(second))
    wire.seqs()
    wire.uploader.heard()
    wire.uploader.tick(2000.0)
    assert wire.seqs() == [1]


def test_never_more_than_the_window_is_under_way(wire: Wire) -> None:
    wire.events(IN_FLIGHT_MAX * 3)
    wire.uploader.connected(0.0)
    assert wire.seqs() == list(range(1, IN_FLIGHT_MAX + 1))
    wire.ack(1, 10, 1.0)
    assert wire.seqs() == list(range(IN_FLIGHT_MAX + 1, IN_FLIGHT_MAX + 11))
    assert wire.uploader.in_flight_count == IN_FLIGHT_MAX


def test_an_endless_backlog_drains_to_the_last_record(wire: Wire) -> None:
    wire.events(1000)
    wire.uploader.connected(0.0)
    got: set[int] = set()
    for second in range(200):
        seqs = wire.seqs()
        got |= set(seqs)
        if not seqs:
            break
        wire.ack(min(seqs), max(seqs), float(second))
    assert got == set(range(1, 1001))
    wire.spool.flush()
    assert wire.waiting() == 0


def test_a_message_that_the_network_did_not_take_goes_again(wire: Wire) -> None:
    wire.takes = False
    wire.events(1)
    wire.uploader.connected(0.0)
    wire.takes = True
    wire.seqs()
    wire.uploader.tick(RESEND_S)
    assert wire.seqs() == [1]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[" * 60_000,
        b'{"cls": "event", "boot_id": "boot-1", "ranges": [[9, 1]]}',
        b'{"cls": "event", "boot_id": "boot-1", "ranges": "all"}',
        b'{"cls": "desired", "boot_id": "boot-1", "ranges": [[1, 9]]}',
    ],
)
def test_a_malformed_acknowledgement_trims_nothing(wire: Wire, payload: bytes) -> None:
    wire.events(2)
    wire.uploader.connected(0.0)
    with pytest.raises(ContractError):
        wire.uploader.acknowledged(payload, 1.0)
    wire.spool.flush()
    assert wire.waiting() == 2


def test_an_acknowledgement_for_what_was_never_sent_trims_nothing(wire: Wire) -> None:
    wire.events(IN_FLIGHT_MAX + 5)
    wire.uploader.connected(0.0)
    other = Ack(cls="event", boot_id="another", ranges=[(1, 9)])
    wire.uploader.acknowledged(encode_json(other), 1.0)
    ahead = Ack(cls="telemetry", boot_id="boot-1", ranges=[(1, 2**53)])
    wire.uploader.acknowledged(encode_json(ahead), 1.0)
    wire.spool.flush()
    assert wire.waiting() == IN_FLIGHT_MAX + 5


def test_what_people_wait_for_goes_first(wire: Wire) -> None:
    wire.events(2, "event")
    wire.events(2, "status")
    wire.uploader.connected(0.0)
    assert [cls for cls, _, _ in wire.sent] == ["status", "status", "event", "event"]


def test_records_that_are_refused_are_dropped_counted_and_hold_nothing_up(tmp_path: Path) -> None:
    wire = Wire(tmp_path)
    wire.events(5)
    wire.uploader.connected(0.0)
    assert wire.seqs() == [1, 2, 3, 4, 5]
    # 6 to 900 were never sent: no word of the fleet's reaches into the spool beyond what it saw.
    refused = RecordRefused(cls="event", boot_id="boot-1", ranges=[(2, 3), (6, 900)], reason="odd")
    wire.uploader.refused(refused, 1.0)
    assert wire.uploader.refused_count == 2
    assert wire.uploader.refused_reason == "event: odd"
    wire.uploader.refused(refused, 1.0)
    assert wire.uploader.refused_count == 2
    wire.events(1)
    wire.uploader.tick(2.0)
    wire.ack(1, 1, 3.0)
    wire.ack(4, 6, 3.0)
    assert wire.waiting() == 0, "2 and 3 are gone, too"
