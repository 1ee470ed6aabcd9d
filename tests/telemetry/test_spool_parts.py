"""The spool's pure parts: batches, merging runs, who gives way."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.telemetry.batch import (
    BATCH_MAX_RAW_BYTES,
    BATCH_MAX_RECORDS,
    MERGE_FACTOR,
    PAYLOAD_MAX_BYTES,
    BatchCodec,
    BatchDamagedError,
    Record,
    merge_run,
)
from edge_agent.telemetry.quota import CLASSES, Relief, relief_order
from edge_contract.errors import ContractError

SHARES = {"telemetry": 0.4, "drift": 0.2, "event": 0.2, "status": 0.2}


@st.composite
def runs(draw: st.DrawFn, gaps: bool) -> list[Record]:
    records: list[Record] = []
    seq = draw(st.integers(1, 1000))
    for _ in range(draw(st.integers(1, 40))):
        width = draw(st.integers(1, 5))
        records.append(Record(seq, seq + width - 1, draw(st.binary(max_size=50))))
        seq += width + (draw(st.sampled_from([0, 0, 3])) if gaps else 0)
    return records


@given(runs(gaps=True))
def test_batches_hold_the_records_in_order_without_gaps_inside(records: list[Record]) -> None:
    codec = BatchCodec()
    unpacked: list[Record] = []
    for batch in codec.pack(records):
        inside = codec.unpack(batch.body, batch.seq_first, batch.seq_last)
        assert len(inside) == batch.records
        unpacked += inside
    assert unpacked == records


def test_batches_are_cut_at_both_limits() -> None:
    codec = BatchCodec()
    many = codec.pack([Record(seq, seq, b"") for seq in range(1, 1100)])
    assert [batch.records for batch in many] == [BATCH_MAX_RECORDS, BATCH_MAX_RECORDS, 75]
    third = BATCH_MAX_RAW_BYTES // 3
    large = codec.pack([Record(seq, seq, bytes(third)) for seq in range(1, 8)])
    assert [batch.records for batch in large] == [3, 3, 1]
    assert len(codec.pack([Record(1, 1, bytes(PAYLOAD_MAX_BYTES))])) == 1


@given(runs(gaps=False), st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_goes_unnoticed(records: list[Record], where: int, flip: int) -> None:
    codec = BatchCodec()
    (batch,) = codec.pack(records)
    body = bytearray(batch.body)
    body[where % len(body)] ^= flip
    try:
        got = codec.unpack(bytes(body), batch.seq_first, batch.seq_last)
    except BatchDamagedError:
        return
    assert got == records  # a bit of the frame header that carries nothing


@pytest.mark.parametrize("body", [b"", b"\x28\xb5\x2f\xfd", random.Random(1).randbytes(200)])
def test_garbage_is_no_batch(body: bytes) -> None:
    with pytest.raises(BatchDamagedError):
        BatchCodec().unpack(body, 1, 2)


def test_batch_of_other_numbers_is_damaged() -> None:
    codec = BatchCodec()
    (batch,) = codec.pack([Record(1, 1, b"a"), Record(2, 2, b"b")])
    with pytest.raises(BatchDamagedError, match="other records"):
        codec.unpack(batch.body, 2, 3)


@given(runs(gaps=False), st.integers(0, 3))
def test_merging_keeps_order_cover_and_content(records: list[Record], refusal: int) -> None:
    def merge(earlier: bytes, later: bytes) -> bytes | None:
        return None if len(later) % 4 < refusal else earlier + later

    merged = merge_run(records, merge)
    assert b"".join(r.payload for r in merged) == b"".join(r.payload for r in records)
    assert (merged[0].seq_first, merged[-1].seq_last) == (
        records[0].seq_first,
        records[-1].seq_last,
    )
    assert all(a.seq_last + 1 == b.seq_first for a, b in pairwise(merged))
    if refusal == 0:
        assert len(merged) == -(-len(records) // MERGE_FACTOR)


def test_merge_that_fails_or_outgrows_a_message_leaves_the_pair_apart() -> None:
    records = [Record(1, 1, b"a"), Record(2, 2, b"b")]

    def fails(earlier: bytes, later: bytes) -> bytes:
        raise ContractError("not a summary")

    assert merge_run(records, fails) == records
    assert merge_run(records, lambda a, b: bytes(PAYLOAD_MAX_BYTES + 1)) == records


@given(st.fixed_dictionaries({cls: st.integers(0, 100) for cls in CLASSES}))
def test_relief_merges_first_and_always_ends_in_a_drop(used_bytes: dict[str, int]) -> None:
    order = relief_order(used_bytes, SHARES, 200, {"telemetry", "drift"})
    kinds = [relief.kind for relief in order]
    assert kinds == sorted(kinds, reverse=True)  # "merge" before "drop"
    drops = [relief.cls for relief in order if relief.kind == "drop"]
    assert set(drops) == {cls for cls in CLASSES if used_bytes[cls]}
    pressure = [used_bytes[cls] / SHARES[cls] for cls in drops]
    assert pressure == sorted(pressure, reverse=True)


def test_class_within_its_quota_is_not_merged_for_another() -> None:
    used_bytes = {"telemetry": 50, "drift": 0, "event": 90, "status": 0}
    assert relief_order(used_bytes, SHARES, 200, {"telemetry"}) == [
        Relief("drop", "event"),
        Relief("drop", "telemetry"),
    ]
    assert relief_order({**used_bytes, "telemetry": 81}, SHARES, 200, {"telemetry"}) == [
        Relief("merge", "telemetry"),
        Relief("drop", "event"),
        Relief("drop", "telemetry"),
    ]
