"""What the spool promises while the disk is well: order, acknowledgement, sequence numbers."""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.telemetry.batch import PAYLOAD_MAX_BYTES
from edge_agent.telemetry.errors import SpoolError
from edge_agent.telemetry.spool import AcceptedRange, Spool, SpoolRecord
from edge_agent.telemetry.spool_file import open_database
from edge_contract.errors import ContractError

OpenSpool = Callable[..., Spool]
Drain = Callable[..., list[SpoolRecord]]


def payload(seq: int) -> bytes:
    return json.dumps({"seq": seq}).encode()


def seqs(records: list[SpoolRecord]) -> list[int]:
    return [record.seq_first for record in records]


def test_records_come_back_in_order_with_their_keys(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(5):
        spool.append("telemetry", payload)
    spool.append("event", lambda seq: b"door")
    assert spool.flush() == [
        AcceptedRange("telemetry", "boot-1", 1, 5),
        AcceptedRange("event", "boot-1", 1, 1),
    ]
    records = spool.next_batch("telemetry")
    assert seqs(records) == [1, 2, 3, 4, 5]
    assert {r.boot_id for r in records} == {"boot-1"}
    assert [r.payload for r in records] == [payload(seq) for seq in range(1, 6)]
    assert spool.next_batch("event")[0].payload == b"door"


def test_nothing_is_sent_before_it_is_flushed(open_spool: OpenSpool) -> None:
    spool = open_spool()
    spool.append("telemetry", payload)
    assert spool.next_batch("telemetry") == []
    spool.flush()
    assert seqs(spool.next_batch("telemetry")) == [1]


def test_durable_record_is_on_disk_at_once(open_spool: OpenSpool) -> None:
    spool = open_spool()
    spool.append("status", payload, durable=True)
    assert spool.stats().pending_records == 0
    assert seqs(spool.next_batch("status")) == [1]
    assert spool.flush() == [AcceptedRange("status", "boot-1", 1, 1)]
    assert spool.flush() == []


def test_memory_is_bounded_between_flushes(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(10):
        spool.append("telemetry", lambda seq: b"x" * 100_000)
    assert spool.stats().pending_records <= 2
    assert spool.flush() == [AcceptedRange("telemetry", "boot-1", 1, 10)]


def test_what_is_in_flight_is_not_returned_twice(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(10):
        spool.append("telemetry", payload)
    spool.flush()
    assert seqs(spool.next_batch("telemetry", max_records=4)) == [1, 2, 3, 4]
    assert seqs(spool.next_batch("telemetry", max_records=4)) == [5, 6, 7, 8]
    assert seqs(spool.next_batch("telemetry", max_records=4)) == [9, 10]
    assert spool.next_batch("telemetry") == []


def test_byte_limit_holds_but_never_starves_a_large_record(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for size in (100, 100, 5000, 100):
        spool.append("telemetry", lambda seq, size=size: b"x" * size)
    spool.flush()
    batches = [spool.next_batch("telemetry", max_bytes=1000) for _ in range(4)]
    assert [seqs(batch) for batch in batches] == [[1, 2], [3], [4], []]


def test_unacknowledged_is_sent_again_after_reconnect(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(6):
        spool.append("telemetry", payload)
    spool.flush()
    spool.next_batch("telemetry")
    spool.ack("boot-1", "telemetry", [[1, 2], [5, 5]])
    spool.reset_in_flight()
    assert seqs(spool.next_batch("telemetry")) == [3, 4, 6]
    spool.ack("boot-1", "telemetry", [[3, 6]])
    spool.reset_in_flight()
    assert spool.next_batch("telemetry") == []
    assert spool.stats().classes["telemetry"].records == 0


def test_acknowledgement_survives_reopening(open_spool: OpenSpool, drain: Drain) -> None:
    spool = open_spool()
    for _ in range(2):
        spool.append("telemetry", payload)
        spool.flush()
    spool.next_batch("telemetry")
    spool.ack("boot-1", "telemetry", [[1, 1]])
    spool.close()
    assert seqs(drain(open_spool())) == [2]


def test_acknowledgement_frees_only_its_own_boot_and_class(
    open_spool: OpenSpool, drain: Drain
) -> None:
    spool = open_spool()
    for cls in ("telemetry", "drift"):
        spool.append(cls, payload, durable=True)
    spool.close()
    spool = open_spool(boot_id="boot-2")
    spool.append("telemetry", payload, durable=True)
    drain(spool)
    drain(spool, "drift")
    assert spool.ack("boot-2", "telemetry", [[1, 1]]) == 1
    assert spool.ack("boot-3", "telemetry", [[1, 1]]) == 0
    assert [(r.boot_id, r.seq_first) for r in drain(spool)] == [("boot-1", 1)]
    assert len(drain(spool, "drift")) == 1


def test_acknowledgement_of_what_was_never_sent_trims_nothing(
    open_spool: OpenSpool, drain: Drain
) -> None:
    spool = open_spool()
    spool.append("telemetry", payload, durable=True)
    assert spool.ack("boot-1", "telemetry", [[1, 2**60]]) == 0
    assert spool.ack("boot-1", "telemetry", [[2**50, 2**60], [-5, 0]]) == 0
    assert seqs(drain(spool)) == [1]


def test_malformed_acknowledgement_is_refused(open_spool: OpenSpool) -> None:
    spool = open_spool()
    with pytest.raises(ContractError):
        spool.ack("boot-1", "telemetry", [[2, 1]])


def test_backfill_is_what_was_recorded_before_the_connection(open_spool: OpenSpool) -> None:
    spool = open_spool()
    spool.append("telemetry", payload, durable=True)
    spool.close()
    spool = open_spool()
    spool.append("telemetry", payload)  # in memory when the connection begins
    spool.reset_in_flight()
    spool.append("telemetry", payload)
    spool.flush()
    assert [r.backfill for r in spool.next_batch("telemetry")] == [True, True, False]
    spool.reset_in_flight(reconnected=False)  # a time-out on the same connection
    assert [r.backfill for r in spool.next_batch("telemetry")] == [True, True, False]


def test_sequence_goes_on_after_reopening_in_one_boot(open_spool: OpenSpool) -> None:
    spool = open_spool()
    for _ in range(3):
        spool.append("telemetry", payload)
    spool.flush()
    spool.next_batch("telemetry")
    spool.ack("boot-1", "telemetry", [[1, 3]])  # nothing is left to count from
    spool.close()
    assert open_spool().append("telemetry", payload) == 4


def test_sequence_starts_at_one_in_each_boot_and_class(open_spool: OpenSpool, drain: Drain) -> None:
    spool = open_spool()
    assert [spool.append("telemetry", payload), spool.append("drift", payload)] == [1, 1]
    spool.close()
    spool = open_spool(boot_id="boot-2")
    assert spool.append("telemetry", payload) == 1
    spool.flush()
    assert [(r.boot_id, r.seq_first) for r in drain(spool)] == [("boot-1", 1), ("boot-2", 1)]


def test_boot_that_returns_after_another_gets_a_name_of_its_own(open_spool: OpenSpool) -> None:
    for boot_id in ("boot-1", "boot-2"):
        spool = open_spool(boot_id=boot_id)
        spool.append("telemetry", payload)
        spool.close()
    spool = open_spool(boot_id="boot-1")
    assert spool.boot_id == "boot-1.f00d"
    spool.append("telemetry", payload)
    spool.close()
    assert open_spool(boot_id="boot-1").append("telemetry", payload) == 2


def test_forgotten_boots_leave_no_rows(open_spool: OpenSpool, tmp_path: Path) -> None:
    for number in range(5):
        spool = open_spool(boot_id=f"boot-{number}")
        spool.append("telemetry", payload, durable=True)
        spool.next_batch("telemetry")
        spool.ack(f"boot-{number}", "telemetry", [[1, 1]])
        spool.close()
    with sqlite3.connect(tmp_path / "spool.db") as connection:
        assert connection.execute("SELECT boot_id FROM boot").fetchall() == [("boot-4",)]


def test_failing_payload_uses_up_no_sequence_number(open_spool: OpenSpool) -> None:
    spool = open_spool()
    with pytest.raises(ZeroDivisionError):
        spool.append("telemetry", lambda seq: bytes(1 // 0))
    with pytest.raises(SpoolError, match="at most"):
        spool.append("telemetry", lambda seq: b"x" * (PAYLOAD_MAX_BYTES + 1))
    assert spool.append("telemetry", lambda seq: b"x" * PAYLOAD_MAX_BYTES) == 1
    spool.flush()
    assert len(spool.next_batch("telemetry")[0].payload) == PAYLOAD_MAX_BYTES


def test_ledger_names_every_flushed_range_and_survives_a_torn_line(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger.jsonl"
    spool = open_spool(ledger_path=ledger)
    for _ in range(3):
        spool.append("telemetry", payload)
    spool.flush()
    spool.append("event", payload, durable=True)
    spool.close()
    with ledger.open("ab") as file:
        file.write(b'{"boot_id":"boot-1","cl')
    spool = open_spool(ledger_path=ledger)
    spool.append("telemetry", payload)
    spool.close()
    lines = ledger.read_text().splitlines()
    assert lines.pop(2) == '{"boot_id":"boot-1","cl'
    assert [json.loads(line) for line in lines] == [
        {"boot_id": "boot-1", "class": cls, "seq_a": a, "seq_b": b, "t": 1_700_000_000.0}
        for cls, a, b in [("telemetry", 1, 3), ("event", 1, 1), ("telemetry", 4, 4)]
    ]


def test_commit_and_ledger_line_are_synced_before_the_caller_hears(
    open_spool: OpenSpool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_spool().close()
    connection = open_database(tmp_path / "spool.db", 1 << 20)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    connection.close()
    synced: list[int] = []
    really_sync = os.fsync

    def sync(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_size)
        really_sync(descriptor)

    monkeypatch.setattr(os, "fsync", sync)
    spool = open_spool(ledger_path=tmp_path / "ledger.jsonl")
    spool.append("telemetry", payload, durable=True)
    assert synced == [(tmp_path / "ledger.jsonl").stat().st_size]


def test_second_agent_on_one_spool_is_refused(open_spool: OpenSpool) -> None:
    open_spool().append("telemetry", payload, durable=True)
    with pytest.raises(SpoolError, match="another process") as caught:
        open_spool()
    assert "stop the other" in caught.value.hint


def test_another_thread_is_refused(open_spool: OpenSpool) -> None:
    spool = open_spool()
    caught: list[BaseException] = []

    def intrude() -> None:
        try:
            spool.append("telemetry", payload, durable=True)
        except sqlite3.ProgrammingError as error:
            caught.append(error)

    thread = threading.Thread(target=intrude)
    thread.start()
    thread.join()
    assert len(caught) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cap_bytes": 1000}, "spool cap"),
        ({"cap_bytes": "8 MB"}, "spool cap"),
        ({"quotas": {}}, "a share for each"),
        ({"quotas": {"telemetry": 1.0}}, "a share for each"),
        ({"quotas": {"telemetry": 0, "drift": 0.1, "event": 0.1, "status": 0.1}}, "above 0"),
        ({"quotas": {"telemetry": "x", "drift": 0.1, "event": 0.1, "status": 0.1}}, "above 0"),
        ({"quotas": {"telemetry": 0.8, "drift": 0.1, "event": 0.1, "status": 0.1}}, "at most 1"),
        ({"boot_id": ""}, "boot id"),
        ({"merge": {"telemetri": min}}, "merges for"),
        ({"path": Path("/nonexistent/spool.db")}, "spool /nonexistent"),
    ],
)
def test_malformed_settings_are_refused(
    open_spool: OpenSpool, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpoolError, match=message):
        open_spool(**change)


def test_unknown_class_is_refused(open_spool: OpenSpool) -> None:
    spool = open_spool()
    with pytest.raises(SpoolError, match="expected one of"):
        spool.append("telemetri", payload)
    with pytest.raises(SpoolError, match="expected one of"):
        spool.next_batch("telemetri")
