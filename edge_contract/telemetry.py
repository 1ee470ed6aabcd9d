"""The telemetry summary: what a device says about one window of its own work.

Flat JSON with a unit in every numeric name, so that Telegraf, Grafana or Node-RED read it with no
code; the one exception is ``class_counts``, a list, because classes have no bound.

Two summaries of neighbouring windows merge into one. Counters, sums, maxima and latency buckets
merge exactly; p50 and p95 of a merged summary are interpolated from the buckets and good to the
width of a bucket (see ``BUCKET_BOUNDS_MS``).
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Annotated, Any

import msgspec

from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError
from edge_contract.messages import Header

MERGED_WINDOW_MAX_S = 7 * 86_400.0
"""Summaries merge up to a week: a coarser one says nothing any more about when."""

BUCKET_BOUNDS_MS: tuple[float, ...] = (
    0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 50.0,
    100.0, 200.0, 500.0, 1_000.0, 2_000.0, 5_000.0, 10_000.0,
)  # fmt: skip
"""Upper bounds of the latency buckets in ms, the 1-2-5 series; above the last lies "+Inf"."""

BUCKET_FIELDS: tuple[str, ...] = tuple(
    f"infer_latency_le_{f'{bound:g}'.replace('.', '_')}_ms" for bound in BUCKET_BOUNDS_MS
)
"""The field of ``TelemetrySummary`` that counts each bucket, in the order of the bounds."""

Count = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]
Amount = Annotated[float, msgspec.Meta(ge=0)]


class TelemetrySummary(Header, frozen=True, kw_only=True):
    """One window, or several merged ones covering ``seq_first`` to ``seq``.

    ``ts`` (of ``Header``) is the window's end. ``*_count`` fields count within the window, with one
    exception, said below. ``infer_latency_le_X_ms`` counts the inferences that took at most X ms
    (cumulative, as in Prometheus; "+Inf" is ``infer_latency_count``).

    Attributes:
        seq_first: equal to ``seq`` unless merged.
        window_s: sum of the merged windows' lengths.
        frames_count: frames that the source delivered.
        frames_dropped_count: frames skipped because the one before was still being worked on.
        errors_count: inferences that failed.
        rejected_count: frames refused as bad input.
        infer_latency_p50_ms: null when nothing was inferred; so is p95.
        preprocess_latency_p95_ms: of a merged summary the largest of its windows: an upper bound.
        class_counts: predictions per class index.
        memory_rss_mb: the largest resident size seen.
        cpu_temp_c: the highest seen; null where the board has no sensor.
        spool_used_bytes: on disk at the window's end.
        spool_dropped_count: sequence numbers given up for want of space *since the spool was
            made*, not in the window, so that a lost summary hides nothing.
        offline: the device had no broker during some part of the window.
    """

    seq: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    boot_id: Annotated[str, msgspec.Meta(min_length=1, max_length=80)]
    model_version: Annotated[str, msgspec.Meta(max_length=128)]
    seq_first: Annotated[int, msgspec.Meta(ge=1, le=2**53 - 1)]
    window_s: Amount
    frames_count: Count
    frames_dropped_count: Count
    errors_count: Count
    rejected_count: Count
    infer_latency_count: Count
    infer_latency_sum_ms: Amount
    infer_latency_max_ms: Amount
    infer_latency_p50_ms: Amount | None
    infer_latency_p95_ms: Amount | None
    infer_latency_le_0_1_ms: Count
    infer_latency_le_0_2_ms: Count
    infer_latency_le_0_5_ms: Count
    infer_latency_le_1_ms: Count
    infer_latency_le_2_ms: Count
    infer_latency_le_5_ms: Count
    infer_latency_le_10_ms: Count
    infer_latency_le_20_ms: Count
    infer_latency_le_50_ms: Count
    infer_latency_le_100_ms: Count
    infer_latency_le_200_ms: Count
    infer_latency_le_500_ms: Count
    infer_latency_le_1000_ms: Count
    infer_latency_le_2000_ms: Count
    infer_latency_le_5000_ms: Count
    infer_latency_le_10000_ms: Count
    preprocess_latency_p95_ms: Amount | None = None
    class_counts: Annotated[tuple[Count, ...], msgspec.Meta(max_length=8192)] = ()
    memory_rss_mb: Amount
    cpu_temp_c: float | None = None
    spool_used_bytes: Count
    spool_dropped_count: Count
    offline: bool

    def __post_init__(self) -> None:
        if not 1 <= self.seq_first <= self.seq:
            raise ContractError(
                f"telemetry: expected 1 <= seq_first <= seq, got {self.seq_first} and {self.seq}"
            )
        steps = (0, *latency_buckets(self), self.infer_latency_count)
        if any(low > high for low, high in pairwise(steps)):
            raise ContractError(
                "telemetry: expected latency buckets that never fall and stay within"
                f" infer_latency_count, got {steps[1:]}"
            )
        for name in ("ts", "window_s", "infer_latency_sum_ms", "infer_latency_max_ms"):
            if not math.isfinite(getattr(self, name)):
                raise ContractError(f"telemetry: expected a finite {name}")


def encode_summary(summary: TelemetrySummary) -> bytes:
    """``summary`` as canonical JSON."""
    return encode_json(summary)


def decode_summary(data: bytes) -> TelemetrySummary:
    """Parse a summary; unknown fields are ignored, so that newer agents can add some.

    Raises:
        ContractError: above 128 KB, malformed, or inconsistent in itself.
    """
    return decode_json(data, TelemetrySummary, what="telemetry summary")


def latency_buckets(summary: TelemetrySummary) -> tuple[int, ...]:
    """Cumulative counts in the order of ``BUCKET_BOUNDS_MS``."""
    return tuple(getattr(summary, field) for field in BUCKET_FIELDS)


def merge(earlier: TelemetrySummary, later: TelemetrySummary) -> TelemetrySummary:
    """One summary for two neighbouring windows.

    Associative: counters, buckets and maxima exactly, float sums up to rounding.

    Raises:
        ContractError: not of one boot, one model version and adjacent sequence numbers.
    """
    if (earlier.boot_id, earlier.model_version) != (later.boot_id, later.model_version):
        raise ContractError(
            "telemetry: only summaries of one boot and one model version merge, got"
            f" {earlier.boot_id}/{earlier.model_version} and {later.boot_id}/{later.model_version}"
        )
    if later.seq_first != earlier.seq + 1:
        raise ContractError(
            f"telemetry: expected seq_first {earlier.seq + 1} to follow, got {later.seq_first}"
        )
    count = earlier.infer_latency_count + later.infer_latency_count
    max_ms = max(earlier.infer_latency_max_ms, later.infer_latency_max_ms)
    buckets = tuple(
        a + b for a, b in zip(latency_buckets(earlier), latency_buckets(later), strict=True)
    )
    fields: dict[str, Any] = dict(zip(BUCKET_FIELDS, buckets, strict=True))
    return msgspec.structs.replace(
        later,
        seq_first=earlier.seq_first,
        window_s=earlier.window_s + later.window_s,
        frames_count=earlier.frames_count + later.frames_count,
        frames_dropped_count=earlier.frames_dropped_count + later.frames_dropped_count,
        errors_count=earlier.errors_count + later.errors_count,
        rejected_count=earlier.rejected_count + later.rejected_count,
        infer_latency_count=count,
        infer_latency_sum_ms=earlier.infer_latency_sum_ms + later.infer_latency_sum_ms,
        infer_latency_max_ms=max_ms,
        infer_latency_p50_ms=bucket_quantile_ms(0.50, BUCKET_BOUNDS_MS, buckets, count, max_ms),
        infer_latency_p95_ms=bucket_quantile_ms(0.95, BUCKET_BOUNDS_MS, buckets, count, max_ms),
        preprocess_latency_p95_ms=_largest(
            earlier.preprocess_latency_p95_ms, later.preprocess_latency_p95_ms
        ),
        class_counts=_add_padded(earlier.class_counts, later.class_counts),
        memory_rss_mb=max(earlier.memory_rss_mb, later.memory_rss_mb),
        cpu_temp_c=_largest(earlier.cpu_temp_c, later.cpu_temp_c),
        spool_dropped_count=max(earlier.spool_dropped_count, later.spool_dropped_count),
        offline=earlier.offline or later.offline,
        **fields,
    )


def merge_payloads(earlier: bytes, later: bytes) -> bytes | None:
    """``merge`` on encoded summaries, in the form that the device's spool wants.

    Returns:
        None where the two must stay apart: unlike boot or model version, or above a week.

    Raises:
        ContractError: a payload is no summary.
    """
    a, b = decode_summary(earlier), decode_summary(later)
    apart = (a.boot_id, a.model_version) != (b.boot_id, b.model_version)
    if apart or a.window_s + b.window_s > MERGED_WINDOW_MAX_S:
        return None
    return encode_summary(merge(a, b))


def bucket_quantile_ms(
    q: float, bounds_ms: Sequence[float], cumulative: Sequence[int], count: int, max_ms: float
) -> float | None:
    """The ``q`` quantile, interpolated linearly within its bucket.

    As Prometheus' ``histogram_quantile``, but the last occupied bucket ends at the known maximum.

    Args:
        q: 0 < q <= 1.
        bounds_ms: ascending upper bounds.
        cumulative: observations up to each bound.
        count: all observations, those above the last bound too.
        max_ms: the largest observation.

    Returns:
        ms, or None without observations.
    """
    if count == 0:
        return None
    rank = q * count
    index = bisect_left(cumulative, rank)
    below = cumulative[index - 1] if index else 0
    upto = cumulative[index] if index < len(cumulative) else count
    low_ms = bounds_ms[index - 1] if index else 0.0
    high_ms = min(bounds_ms[index], max_ms) if index < len(bounds_ms) else max_ms
    return low_ms + (high_ms - low_ms) * (rank - below) / (upto - below)


class LatencyHistogram:
    """Collects one window's latencies on the device. Not thread-safe: one owner.

    Each wire bucket is split into ``_SPLIT`` geometric parts here, so p50 and p95 of an unmerged
    window err by less than 13 % (a 5/2 bucket split in eight: 2.5 ** (1 / 8) = 1.12) where wire
    buckets alone would err by up to 150 %.
    """

    __slots__ = ("_counts", "count", "max_ms", "sum_ms")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Begin a new window."""
        self._counts = [0] * (len(_FINE_BOUNDS_MS) + 1)
        self.count = 0
        self.sum_ms = 0.0
        self.max_ms = 0.0

    def observe(self, latency_ms: float) -> None:
        """Count one latency in ms.

        Raises:
            ContractError: negative, infinite or NaN.
        """
        if not 0.0 <= latency_ms < math.inf:
            raise ContractError(f"latency: expected a finite number of ms >= 0, got {latency_ms}")
        self._counts[bisect_left(_FINE_BOUNDS_MS, latency_ms)] += 1
        self.count += 1
        self.sum_ms += latency_ms
        if latency_ms > self.max_ms:
            self.max_ms = latency_ms

    def quantile_ms(self, q: float) -> float | None:
        """The ``q`` quantile (0 < q <= 1) in ms; None before the first observation."""
        cumulative = list(accumulate(self._counts[:-1]))
        return bucket_quantile_ms(q, _FINE_BOUNDS_MS, cumulative, self.count, self.max_ms)

    def summary_fields(self) -> dict[str, Any]:
        """The ``infer_latency_*`` fields of ``TelemetrySummary``, by name."""
        cumulative = list(accumulate(self._counts))
        wire = cumulative[_SPLIT - 1 : len(_FINE_BOUNDS_MS) : _SPLIT]
        return {
            "infer_latency_count": self.count,
            "infer_latency_sum_ms": self.sum_ms,
            "infer_latency_max_ms": self.max_ms,
            "infer_latency_p50_ms": self.quantile_ms(0.50),
            "infer_latency_p95_ms": self.quantile_ms(0.95),
            **dict(zip(BUCKET_FIELDS, wire, strict=True)),
        }


_SPLIT = 8


def _fine_bounds_ms() -> list[float]:
    bounds: list[float] = []
    low = BUCKET_BOUNDS_MS[0] / 2  # below the first bucket lies no ratio to split by
    for high in BUCKET_BOUNDS_MS:
        bounds += [low * (high / low) ** (part / _SPLIT) for part in range(1, _SPLIT)]
        bounds.append(high)
        low = high
    return bounds


_FINE_BOUNDS_MS = _fine_bounds_ms()


def _largest(a: float | None, b: float | None) -> float | None:
    if a is None or b is None:
        return b if a is None else a
    return max(a, b)


def _add_padded(a: Sequence[int], b: Sequence[int]) -> tuple[int, ...]:
    length = max(len(a), len(b))
    return tuple((a[i] if i < len(a) else 0) + (b[i] if i < len(b) else 0) for i in range(length))
