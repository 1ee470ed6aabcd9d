"""The drift sketch: one window of a device's drift features as bin counts, made to be merged.

The bins are those of the model line's ``DriftReference`` (see ``edge_contract.reference``), so a
merge adds integers: exact, in any order and grouping, after weeks offline. Sketches on unequal
edges are refused. A feature of 32 bins costs at most 128 bytes on the wire while no bin holds
more than 65,535 samples (18 hours at 1 Hz if all fell into one bin).

The distances between counts on shared bins live here as well, because a device states its
deployment gap and the fleet its drift with the same numbers.
"""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Iterable, Sequence
from itertools import accumulate

import msgspec

from edge_contract.errors import ContractError
from edge_contract.reference import (
    MAX_BINS,
    MAX_COUNT,
    MAX_FEATURES,
    DriftReference,
    check_bin_counts,
    pool_bins,
)

MAX_SKETCH_BYTES = 64 * 1024
"""Above 65 features of 64 bins with 9-byte counts (39 KB)."""

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

_RANGE = struct.Struct("<ff")
_FLOAT32_MAX = 3.4028234663852886e38


class FeatureSketch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One feature's counts in a window.

    Attributes:
        counts: samples per bin of the reference; the first and last bins are under- and overflow.
        nan_count: samples whose value was NaN.
        range_f32: smallest and largest value seen, two little-endian float32; +inf and -inf when
            nothing was seen (always so for the predicted class).
    """

    counts: tuple[int, ...]
    nan_count: int
    range_f32: bytes

    def __post_init__(self) -> None:
        if len(self.range_f32) != _RANGE.size:
            raise ContractError(
                f"drift sketch: expected a range of {_RANGE.size} bytes, got {len(self.range_f32)}"
            )
        low, high = _RANGE.unpack(self.range_f32)
        ordered = low <= high or (low, high) == _EMPTY  # false for NaN
        if not ordered or pack_range(low, high) != self.range_f32:
            raise ContractError(f"drift sketch: expected min <= max, got {low} and {high}")

    @property
    def minimum(self) -> float:
        """Smallest value seen, rounded to float32; +inf when none was."""
        return float(_RANGE.unpack(self.range_f32)[0])

    @property
    def maximum(self) -> float:
        """Largest value seen, rounded to float32; -inf when none was."""
        return float(_RANGE.unpack(self.range_f32)[1])


class DriftSketch(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Bin counts of all drift features over one window.

    Attributes:
        edges_digest: ``DriftReference.edges_digest`` of the bins.
        n: samples in the window; every feature's counts plus its NaN count sum to it.
        features: one sketch per feature in the reference's order, the predicted class last.

    Raises:
        ContractError: from the constructor, when any of this does not hold.
    """

    edges_digest: str
    n: int
    features: tuple[FeatureSketch, ...]
    schema: int = 1

    def __post_init__(self) -> None:
        if self.schema != 1:
            raise ContractError(f"drift sketch: expected schema 1, got {self.schema}")
        if not _DIGEST.fullmatch(self.edges_digest):
            raise ContractError(
                f"drift sketch: expected an edges digest 'sha256:<64 hex digits>', "
                f"got {self.edges_digest[:80]!r}"
            )
        if not 0 <= self.n <= MAX_COUNT:
            raise ContractError(f"drift sketch: expected n from 0 to {MAX_COUNT}, got {self.n}")
        if len(self.features) > MAX_FEATURES + 1:
            raise ContractError(
                f"drift sketch: expected at most {MAX_FEATURES + 1} features, "
                f"got {len(self.features)}"
            )
        for index, feature in enumerate(self.features):
            where = f"drift sketch, feature {index}"
            check_bin_counts(where, feature.counts, feature.nan_count, n=self.n)
            if not 1 <= len(feature.counts) <= MAX_BINS:
                raise ContractError(
                    f"{where}: expected 1 to {MAX_BINS} bins, got {len(feature.counts)}"
                )

    @classmethod
    def empty(cls, reference: DriftReference) -> DriftSketch:
        """The sketch of no samples on the reference's bins, the identity of ``merge``."""
        nothing = pack_range(*_EMPTY)
        return cls(
            edges_digest=reference.edges_digest,
            n=0,
            features=tuple(FeatureSketch((0,) * size, 0, nothing) for size in reference.bins),
        )

    def merge(self, other: DriftSketch) -> DriftSketch:
        """The sketch of both windows together: exact, commutative, associative.

        Raises:
            ContractError: the edges differ, or one of the two is not what its digest says.
        """
        if self.edges_digest != other.edges_digest:
            raise ContractError(
                f"drift sketches on different edges cannot merge: "
                f"{self.edges_digest} and {other.edges_digest}",
                hint="merge within one model line whose versions inherit their edges",
            )
        if self.bins != other.bins:
            raise ContractError(
                f"drift sketches with one digest {self.edges_digest} have unequal bins: "
                f"{self.bins} and {other.bins}; one of them is damaged"
            )
        return DriftSketch(
            edges_digest=self.edges_digest,
            n=self.n + other.n,
            features=tuple(
                FeatureSketch(
                    tuple(x + y for x, y in zip(a.counts, b.counts, strict=True)),
                    a.nan_count + b.nan_count,
                    pack_range(min(a.minimum, b.minimum), max(a.maximum, b.maximum)),
                )
                for a, b in zip(self.features, other.features, strict=True)
            ),
        )

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins of each feature, the NaN count not included."""
        return tuple(len(feature.counts) for feature in self.features)

    def encode(self) -> bytes:
        """Packed MessagePack: arrays without names, counts of 1 to 9 bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> DriftSketch:
        """Reads what ``encode`` wrote.

        Raises:
            ContractError: too long, not MessagePack, or not a valid sketch.
        """
        if len(data) > MAX_SKETCH_BYTES:
            raise ContractError(
                f"drift sketch: expected at most {MAX_SKETCH_BYTES} bytes, got {len(data)}"
            )
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ContractError(f"drift sketch: not the agreed MessagePack: {error}") from error


def merge_all(sketches: Iterable[DriftSketch], *, into: DriftSketch) -> DriftSketch:
    """Merges any number of sketches into ``into``, usually ``DriftSketch.empty(reference)``.

    Raises:
        ContractError: one of them has other edges.
    """
    for sketch in sketches:
        into = into.merge(sketch)
    return into


_EMPTY = (math.inf, -math.inf)


def pack_range(low: float, high: float) -> bytes:
    """Smallest and largest value as two float32; what lies beyond float32 becomes infinite."""
    rounded = _RANGE.unpack(_RANGE.pack(_clamped(low), _clamped(high)))
    # -0.0 and 0.0 must have the same bytes, or merging would depend on the order.
    return _RANGE.pack(0.0 + rounded[0], 0.0 + rounded[1])


def _clamped(value: float) -> float:
    return math.copysign(math.inf, value) if abs(value) > _FLOAT32_MAX else value


class Distance(msgspec.Struct, frozen=True):
    """How far the observed counts of one feature are from the expected ones.

    Attributes:
        psi: population stability index, over cells of bins that hold at least 5 % of the
            expected counts; NaN is a cell of its own.
        ks: Kolmogorov-Smirnov distance over all bins, NaN last; for bins without an order the
            total variation distance, which is the same supremum over all sets of bins.
        cells: cells that PSI was summed over, those empty on both sides left out.
    """

    psi: float
    ks: float
    cells: int


_LEAST_SHARE = 0.05


def distance(
    expected: tuple[Sequence[int], int], observed: tuple[Sequence[int], int], *, ordered: bool
) -> Distance:
    """Compares two rows of counts, each with its NaN count, on the same bins.

    Raises:
        ContractError: the rows have unequal lengths.
    """
    p, q = (*expected[0], expected[1]), (*observed[0], observed[1])
    if len(p) != len(q):
        raise ContractError(
            f"distances need counts on the same bins, got {len(p) - 1} and {len(q) - 1} of them"
        )
    if not ordered:
        return Distance(psi(p, q), total_variation(p, q), _filled(p, q))
    cells = pool_bins(expected[0], least=_LEAST_SHARE)
    cells = (*cells, cells[-1] + 1)
    pooled_p, pooled_q = [0] * (cells[-1] + 1), [0] * (cells[-1] + 1)
    for cell, a, b in zip(cells, p, q, strict=True):
        pooled_p[cell] += a
        pooled_q[cell] += b
    return Distance(psi(pooled_p, pooled_q), ks(p, q), _filled(pooled_p, pooled_q))


def psi(expected: Sequence[int], observed: Sequence[int]) -> float:
    """Population stability index ``sum((q - p) * ln(q / p))`` of two rows of counts.

    Cells empty in both rows do not count. Half a sample is added to every other cell of both, so
    a cell empty in one is a large term and not an infinite one. 0 means equal; practice reads
    0.1 as a moderate and 0.25 as a major shift (Siddiqi, Credit Risk Scorecards, 2006). When
    nothing has changed, its mean is about
    ``(cells - 1) * (1 / sum(expected) + 1 / sum(observed))``.
    """
    used = [(a + 0.5, b + 0.5) for a, b in zip(expected, observed, strict=True) if a or b]
    n = sum(a for a, _ in used)
    m = sum(b for _, b in used)
    return sum((b / m - a / n) * math.log((b / m) / (a / n)) for a, b in used)


def ks(expected: Sequence[int], observed: Sequence[int]) -> float:
    """Kolmogorov-Smirnov distance of two rows of counts on ordered bins, in [0, 1].

    The largest gap between the cumulative shares at the bin edges; it never exceeds the distance
    of the raw samples. 0 when either row is empty.
    """
    gaps = [q - p for p, q in _shares(expected, observed)]
    return max((abs(gap) for gap in accumulate(gaps)), default=0.0)


def total_variation(expected: Sequence[int], observed: Sequence[int]) -> float:
    """Half the summed absolute difference of shares, in [0, 1]; 0 when either row is empty."""
    return sum(abs(q - p) for p, q in _shares(expected, observed)) / 2


def _shares(expected: Sequence[int], observed: Sequence[int]) -> list[tuple[float, float]]:
    n, m = sum(expected), sum(observed)
    if not n or not m:
        return []
    return [(a / n, b / m) for a, b in zip(expected, observed, strict=True)]


def _filled(row: Sequence[int], other: Sequence[int]) -> int:
    return sum(1 for a, b in zip(row, other, strict=True) if a or b)
