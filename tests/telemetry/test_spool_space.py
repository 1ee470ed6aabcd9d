"""What the spool promises when space runs short: the cap, merge before drop, counted drops."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edge_agent.telemetry.spool import Spool, SpoolRecord
from edge_agent.telemetry.spool_file import create_database, open_database
from edge_agent.telemetry.spool_store import DroppedRange, SpoolStore
from edge_contract.intervals import IntervalSet
from tests.programs import leave_out

OpenSpool = Callable[..., Spool]
Drain = Callable[..., list[SpoolRecord]]
Span = Callable[..., Callable[[int], bytes]]

MEGABYTE = 1_000_000


def disk_bytes(directory: Path) -> int:
    return sum(file.stat().st_size for file in directory.iterdir())


def covered(records: list[SpoolRecord]) -> IntervalSet:
    return IntervalSet((r.seq_first, r.seq_last) for r in records)


def dropped(spool: Spool, cls: str) -> IntervalSet:
    return IntervalSet((t.seq_first, t.seq_last) for t in spool.tombstones() if t.cls == cls)


def fill(spool: Spool, cls: str, count: int, payload: Callable[[int], bytes]) -> None:
    for _ in range(count):
        spool.append(cls, payload, durable=True)


def test_disk_stays_within_the_cap_and_one_megabyte(
    open_spool: OpenSpool, span: Span, tmp_path: Path, merge: dict[str, Any], cap_bytes: int
) -> None:
    spool = open_spool(merge=merge)
    largest = 0
    for step in range(300):
        spool.append(("telemetry", "drift", "event", "status")[step % 4], span(30_000))
        if step % 3 == 0:
            spool.flush()
            largest = max(largest, disk_bytes(tmp_path))
    assert 0.9 * cap_bytes < largest <= cap_bytes + MEGABYTE
    assert spool.stats().used_bytes == disk_bytes(tmp_path)
    assert spool.stats().dropped_count > 0


def test_summaries_merge_before_anything_is_dropped(
    open_spool: OpenSpool, span: Span, drain: Drain, merge: dict[str, Any]
) -> None:
    spool = open_spool(merge=merge)
    written = 0
    while spool.stats().classes["telemetry"].merged_count < 200:
        spool.append("telemetry", span(3000))
        written += 1
        if written % 8 == 0:
            spool.flush()
    spool.flush()
    assert spool.stats().dropped_count == 0
    records = drain(spool)
    assert covered(records).to_list() == [[1, written]]
    for record in records:
        body = json.loads(record.payload)
        assert (body["first"], body["last"]) == (record.seq_first, record.seq_last)
        assert body["sum"] == sum(range(record.seq_first, record.seq_last + 1))


def test_a_year_offline_merges_again_and_again_with_the_oldest_coarsest(
    open_spool: OpenSpool, span: Span, drain: Drain, merge: dict[str, Any]
) -> None:
    spool = open_spool(merge=merge)
    for seq in range(1, 1601):
        spool.append("telemetry", span(3000))
        if seq % 8 == 0:
            spool.flush()
    spool.flush()
    records = drain(spool)
    assert covered(records).to_list() == [[1, 1600]]
    assert spool.stats().dropped_count == 0
    widths = [r.seq_last - r.seq_first + 1 for r in records]
    third = len(widths) // 3
    assert sum(widths[:third]) > 2 * sum(widths[-third:])


def test_frozen_records_never_merge(
    open_spool: OpenSpool, span: Span, drain: Drain, merge: dict[str, Any]
) -> None:
    spool = open_spool(merge=merge)
    for _ in range(40):
        spool.append("telemetry", span(3000))
    spool.flush()
    sent = spool.next_batch("telemetry", max_records=20)
    spool.close()  # the freeze outlives the process that sent them
    spool = open_spool(merge=merge)
    while spool.stats().classes["telemetry"].merged_count < 100:
        spool.append("telemetry", span(3000))
        spool.flush()
    again = drain(spool)
    assert [(r.seq_first, r.seq_last, r.payload) for r in again[: len(sent)]] == [
        (r.seq_first, r.seq_last, r.payload) for r in sent
    ]
    assert any(r.seq_last > r.seq_first for r in again[len(sent) :])


def test_model_versions_and_boots_stay_apart_when_merging(
    open_spool: OpenSpool, span: Span, drain: Drain, merge: dict[str, Any]
) -> None:
    written = 0
    for boot in range(4):
        spool = open_spool(boot_id=f"boot-{boot}", merge=merge)
        for seq in range(160):
            spool.append("telemetry", span(3000, model=f"{seq // 37}.0.0"))
            written += 1
            if seq % 8 == 0:
                spool.flush()
        if boot < 3:
            spool.close()
    spool.flush()
    records = drain(spool)
    assert spool.stats().classes["telemetry"].merged_count > 0
    assert sum(r.seq_last - r.seq_first + 1 for r in records) == written
    for record in records:
        first, last = record.seq_first - 1, record.seq_last - 1
        assert first // 37 == last // 37


def test_oldest_of_the_class_furthest_over_its_quota_goes_first(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool()
    fill(spool, "status", 5, span(20_000))
    fill(spool, "telemetry", 10, span(20_000))
    fill(spool, "event", 80, span(20_000))  # a flood
    assert covered(drain(spool, "status")).to_list() == [[1, 5]]
    assert covered(drain(spool, "telemetry")).to_list() == [[1, 10]]
    kept = covered(drain(spool, "event"))
    lost = dropped(spool, "event")
    assert lost.union(kept).to_list() == [[1, 80]]
    assert lost.to_list()[0][0] == 1
    assert kept.to_list()[-1][1] == 80


def test_flood_of_events_costs_no_telemetry_resolution(
    open_spool: OpenSpool, span: Span, merge: dict[str, Any]
) -> None:
    spool = open_spool(merge=merge)
    fill(spool, "telemetry", 10, span(20_000))
    fill(spool, "event", 80, span(20_000))
    stats = spool.stats()
    assert stats.classes["event"].dropped_count > 0
    assert stats.classes["telemetry"].merged_count == 0
    assert stats.classes["telemetry"].dropped_count == 0


def test_every_drop_is_counted_and_survives_reopening(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool()
    for boot in range(3):
        spool.close()
        spool = open_spool(boot_id=f"boot-{boot}")
        fill(spool, "drift", 40, span(20_000))
    spool.close()
    spool = open_spool(boot_id="boot-2")
    kept = drain(spool, "drift")
    for boot in range(3):
        mine = covered([r for r in kept if r.boot_id == f"boot-{boot}"])
        lost = IntervalSet(
            (t.seq_first, t.seq_last) for t in spool.tombstones() if t.boot_id == f"boot-{boot}"
        )
        assert mine.union(lost).to_list() == [[1, 40]]
        assert not [1 for a, b in mine if lost.classify(a, b).value != "disjoint"]
    assert spool.stats().dropped_count == 120 - sum(r.seq_last - r.seq_first + 1 for r in kept)


def test_acknowledged_part_of_a_dropped_batch_is_not_counted_as_lost(
    open_spool: OpenSpool, span: Span
) -> None:
    spool = open_spool()
    for _ in range(3):
        spool.append("event", span(20_000))
    spool.flush()  # one batch
    spool.next_batch("event")
    spool.ack("boot-1", "event", [[2, 2]])
    fill(spool, "event", 80, span(20_000))
    lost = dropped(spool, "event")
    assert 1 in lost
    assert 2 not in lost
    assert 3 in lost


def test_tombstones_are_bounded_and_the_counter_is_not(tmp_path: Path, cap_bytes: int) -> None:
    create_database(tmp_path / "spool.db")
    store = SpoolStore(open_database(tmp_path / "spool.db", cap_bytes))
    for seq in range(1, 1001, 2):  # never two that touch
        store.bury(DroppedRange("event", 1, seq, seq, "space"))
    store.bury(DroppedRange("event", 1, 1000, 1009, "space"))
    store.commit()
    listed = store.tombstones()
    assert len(listed) == 256
    assert listed[-1] == DroppedRange("event", 1, 999, 1009, "space")
    assert store.state("event").dropped == 510
    store.close()


def test_space_of_acknowledged_records_is_used_again(
    open_spool: OpenSpool, span: Span, cap_bytes: int
) -> None:
    spool = open_spool()
    for _ in range(200):
        spool.append("telemetry", span(20_000), durable=True)
        for record in spool.next_batch("telemetry"):
            spool.ack(record.boot_id, "telemetry", [[record.seq_first, record.seq_last]])
    assert spool.stats().dropped_count == 0
    assert spool.stats().used_bytes < cap_bytes + MEGABYTE


def test_lowered_cap_is_kept_after_the_next_start(
    open_spool: OpenSpool, span: Span, drain: Drain, tmp_path: Path, cap_bytes: int
) -> None:
    spool = open_spool(cap_bytes=4 * cap_bytes)
    fill(spool, "telemetry", 200, span(20_000))
    spool.close()
    assert disk_bytes(tmp_path) > 3 * cap_bytes
    spool = open_spool()
    assert disk_bytes(tmp_path) <= cap_bytes + MEGABYTE
    kept = covered(drain(spool))
    assert kept.union(dropped(spool, "telemetry")).to_list() == [[1, 200]]
    assert kept.count() > 25
    spool.append("telemetry", span(100), durable=True)
    assert spool.findings == []


def test_writes_stay_below_a_third_more_than_the_raw_bytes(open_spool: OpenSpool) -> None:
    """DESIGN 5: at most 1.3x the raw bytes in batches; at the cap, with drops, the hard case."""
    io = Path("/proc/self/io")
    if not io.exists():
        leave_out("counts bytes through /proc/self/io, which this system has not")

    def written_bytes() -> int:
        return int(io.read_text().split("wchar:")[1].split()[0])

    def record(seq: int) -> bytes:
        noise = (seq * 0x9E3779B97F4A7C15) % 2**64
        return (
            f'{{"ts":{1_700_000_000 + seq},"seq":{seq},"m":"clf@3","top":{noise % 10},'
            f'"p":{noise % 9973 / 9973:.4f},"lat_us":{900 + noise % 600},"tag":"{noise:016x}"}}'
        ).encode()

    spool = open_spool()

    def write_batch() -> int:
        raw_bytes = 0
        for _ in range(1000):
            seq = spool.append("telemetry", record)
            raw_bytes += len(record(seq))
        spool.flush()
        return raw_bytes

    while spool.stats().dropped_count == 0:
        write_batch()
    before = written_bytes()
    raw_bytes = sum(write_batch() for _ in range(40))
    assert written_bytes() - before < 1.3 * raw_bytes
