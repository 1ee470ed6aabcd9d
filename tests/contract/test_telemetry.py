"""The telemetry summary: its form, its merge laws, and how good its quantiles are."""

from __future__ import annotations

import json
import math
import random
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import ContractError
from edge_contract.telemetry import (
    BUCKET_BOUNDS_MS,
    BUCKET_FIELDS,
    MERGED_WINDOW_MAX_S,
    LatencyHistogram,
    TelemetrySummary,
    decode_summary,
    encode_summary,
    latency_buckets,
    merge,
    merge_payloads,
)

# Multiples of 1/8 add without rounding, so the laws can be checked for equality.
eighths = st.integers(0, 8 * 20_000).map(lambda n: n / 8)


def summary(seq: int, latencies_ms: list[float], **changes: Any) -> TelemetrySummary:
    histogram = LatencyHistogram()
    for latency_ms in latencies_ms:
        histogram.observe(latency_ms)
    fields: dict[str, Any] = {
        "ts": 1_700_000_000.0 + 10 * seq,
        "seq": seq,
        "seq_first": seq,
        "boot_id": "b1",
        "model_version": "1.0.0",
        "window_s": 10.0,
        "frames_count": len(latencies_ms) + 3,
        "frames_dropped_count": 1,
        "errors_count": 1,
        "rejected_count": 1,
        "memory_rss_mb": 80.5,
        "spool_used_bytes": 4096,
        "spool_dropped_count": 0,
        "offline": False,
        **histogram.summary_fields(),
    }
    return TelemetrySummary(**{**fields, **changes})


@st.composite
def windows(draw: st.DrawFn, count: int) -> list[TelemetrySummary]:
    return [
        summary(
            seq,
            draw(st.lists(eighths, max_size=8)),
            class_counts=tuple(draw(st.lists(st.integers(0, 50), max_size=4))),
            cpu_temp_c=draw(st.none() | st.floats(-20, 95)),
            preprocess_latency_p95_ms=draw(st.none() | eighths),
            spool_dropped_count=draw(st.integers(0, 5)),
            offline=draw(st.booleans()),
        )
        for seq in range(1, count + 1)
    ]


@given(windows(count=3))
def test_merge_is_associative(three: list[TelemetrySummary]) -> None:
    a, b, c = three
    assert merge(merge(a, b), c) == merge(a, merge(b, c))


@given(windows(count=2))
def test_merge_counts_everything_once(two: list[TelemetrySummary]) -> None:
    a, b = two
    both = merge(a, b)
    for field in (*BUCKET_FIELDS, "frames_count", "errors_count", "infer_latency_sum_ms"):
        assert getattr(both, field) == getattr(a, field) + getattr(b, field), field
    assert both.infer_latency_max_ms == max(a.infer_latency_max_ms, b.infer_latency_max_ms)
    assert sum(both.class_counts) == sum(a.class_counts) + sum(b.class_counts)
    assert (both.seq_first, both.seq, both.ts, both.window_s) == (1, 2, b.ts, 20.0)
    assert both.offline == (a.offline or b.offline)


@given(windows(count=2))
def test_codec_round_trips(two: list[TelemetrySummary]) -> None:
    for value in (*two, merge(*two)):
        assert decode_summary(encode_summary(value)) == value


def test_json_is_flat_with_a_unit_in_every_numeric_name() -> None:
    document = json.loads(encode_summary(summary(1, [1.0, 3.0], class_counts=(2, 0))))
    assert isinstance(document.pop("class_counts"), list)
    for name in ("ts", "seq", "seq_first", "schema", "boot_id", "model_version", "offline"):
        document.pop(name)
    units = ("_count", "_ms", "_s", "_mb", "_c", "_bytes")
    for name, value in document.items():
        assert not isinstance(value, dict | list | str), name
        assert name.endswith(units), name


def test_bucket_fields_are_fields_in_order_of_their_bounds() -> None:
    fields = [f.name for f in msgspec.structs.fields(TelemetrySummary) if "_le_" in f.name]
    assert fields == list(BUCKET_FIELDS)
    assert len(BUCKET_FIELDS) == len(BUCKET_BOUNDS_MS)
    assert list(BUCKET_BOUNDS_MS) == sorted(BUCKET_BOUNDS_MS)


def test_buckets_include_their_upper_bound_and_leave_the_overflow_to_the_count() -> None:
    got = summary(1, [0.1, 0.11, 1.0, 1.01, 10_000.0, 10_001.0])
    assert got.infer_latency_le_0_1_ms == 1
    assert got.infer_latency_le_1_ms == 3
    assert got.infer_latency_le_2_ms == 4
    assert got.infer_latency_le_10000_ms == 5
    assert got.infer_latency_count == 6
    assert got.infer_latency_max_ms == 10_001.0


@pytest.mark.parametrize("q", [0.5, 0.95])
@pytest.mark.parametrize("median_ms", [0.2, 1.05, 9.0, 140.0])
def test_window_quantile_errs_by_less_than_thirteen_percent(q: float, median_ms: float) -> None:
    rng = random.Random(7)
    values = sorted(median_ms * rng.lognormvariate(0, 0.3) for _ in range(2_000))
    histogram = LatencyHistogram()
    for value in values:
        histogram.observe(value)
    exact = values[math.ceil(q * len(values)) - 1]
    got = histogram.quantile_ms(q)
    assert got is not None
    assert abs(got / exact - 1) < 0.13


def test_merged_quantile_stays_within_its_bucket() -> None:
    a, b = summary(1, [3.0] * 50), summary(2, [30.0] * 50)
    both = merge(a, b)
    assert both.infer_latency_p50_ms is not None
    assert both.infer_latency_p95_ms is not None
    assert 2.0 < both.infer_latency_p50_ms <= 5.0
    assert 20.0 < both.infer_latency_p95_ms <= 30.0


def test_nothing_inferred_has_no_quantiles() -> None:
    empty = summary(1, [])
    assert empty.infer_latency_p50_ms is None
    assert merge(empty, summary(2, [])).infer_latency_p95_ms is None


def test_cleared_histogram_starts_a_new_window() -> None:
    histogram = LatencyHistogram()
    histogram.observe(5.0)
    histogram.clear()
    assert histogram.summary_fields() == LatencyHistogram().summary_fields()


@pytest.mark.parametrize("latency_ms", [-0.1, math.nan, math.inf])
def test_impossible_latency_is_refused(latency_ms: float) -> None:
    with pytest.raises(ContractError, match="latency"):
        LatencyHistogram().observe(latency_ms)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"boot_id": "b2"}, "one boot"),
        ({"model_version": "2.0.0"}, "one model version"),
        ({"seq": 9}, "to follow"),
    ],
)
def test_unlike_summaries_are_not_merged(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        merge(summary(1, [1.0]), summary(**{"seq": 2, "latencies_ms": [1.0], **change}))


def test_payloads_of_two_model_versions_stay_apart() -> None:
    a = encode_summary(summary(1, [1.0]))
    assert merge_payloads(a, encode_summary(summary(2, [1.0], model_version="2.0.0"))) is None
    merged = merge_payloads(a, encode_summary(summary(2, [1.0])))
    assert merged is not None
    assert decode_summary(merged) == merge(summary(1, [1.0]), summary(2, [1.0]))


def test_a_week_is_the_coarsest_summary() -> None:
    long = encode_summary(summary(1, [], window_s=MERGED_WINDOW_MAX_S - 10))
    assert merge_payloads(long, encode_summary(summary(2, []))) is not None
    assert merge_payloads(long, encode_summary(summary(2, [], window_s=10.5))) is None


def test_unknown_fields_of_a_newer_agent_are_ignored() -> None:
    document = {**json.loads(encode_summary(summary(1, [1.0]))), "gpu_temp_c": 51.0}
    assert decode_summary(json.dumps(document).encode()) == summary(1, [1.0])


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 0, "seq_first": 0},
        {"seq_first": 2},
        {"frames_count": -1},
        {"frames_count": 1.5},
        {"frames_count": 2**53},
        {"frames_count": None},
        {"window_s": -1.0},
        {"window_s": "10"},
        {"boot_id": ""},
        {"boot_id": "x" * 81},
        {"class_counts": [1, -1]},
        {"class_counts": [1] * 8193},
        {"schema": 2},
        {"infer_latency_le_5_ms": 0},
        {"infer_latency_count": 0},
        {"offline": 1},
    ],
)
def test_malformed_summary_is_refused(change: dict[str, Any]) -> None:
    document = {**json.loads(encode_summary(summary(1, [1.0, 1.0]))), **change}
    with pytest.raises(ContractError):
        decode_summary(json.dumps(document).encode())


def test_missing_field_is_refused() -> None:
    document = json.loads(encode_summary(summary(1, [1.0])))
    del document["offline"]
    with pytest.raises(ContractError, match="offline"):
        decode_summary(json.dumps(document).encode())


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"null", b"\xff\xfe", b"[" * 100_000])
def test_what_is_no_summary_is_refused(data: bytes) -> None:
    with pytest.raises(ContractError):
        decode_summary(data)


def test_oversized_message_is_refused_before_parsing() -> None:
    padded = encode_summary(summary(1, [1.0])) + b" " * MESSAGE_LIMIT_BYTES
    with pytest.raises(ContractError, match="at most"):
        decode_summary(padded)


def test_summary_with_many_classes_stays_under_the_limit() -> None:
    big = summary(1, [1.0], class_counts=(123_456_789,) * 8192)
    assert len(encode_summary(big)) < MESSAGE_LIMIT_BYTES


def test_encoding_is_stable() -> None:
    """A test vector: the wire form does not change without anyone noticing."""
    document = json.loads(encode_summary(summary(3, [0.3, 4.0], class_counts=(2, 0))))
    assert document["schema"] == 1
    assert document["infer_latency_count"] == 2
    assert [document[f] for f in BUCKET_FIELDS[:7]] == [0, 0, 1, 1, 1, 2, 2]
    assert document["infer_latency_sum_ms"] == 4.3
    assert latency_buckets(decode_summary(json.dumps(document).encode()))[-1] == 2
