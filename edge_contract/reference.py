"""The drift reference: what a model's inputs and outputs looked like when all was well.

A reference holds, for each numeric feature, the inner edges of its bins and how many reference
rows fell into each, and for the predicted class the classes that have a bin of their own. Masses
are kept as counts, because how far they can be trusted depends on how many there were.

Bins of a numeric feature with edges ``e[0] < ... < e[m-1]``: bin ``k`` holds the values with
exactly ``k`` edges at or below them, so bin 0 is the underflow and bin ``m`` the overflow. Index
``m + 1`` is the bin of NaN. The predicted class comes last among the features: bin ``k`` is class
``class_ids[k]``, and one more bin holds every other class; it has no NaN.

Edges are inherited along a model line: a new version counts its own masses on the old edges, so
that summaries of both merge. ``edges_digest`` says whether two things share their edges.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from itertools import accumulate, pairwise

import msgspec

from edge_contract.errors import ContractError

PREDICTED_CLASS = "predicted_class"
"""The name of the one categorical feature, always the last."""

MAX_FEATURES = 64
MAX_BINS = 64
MAX_NAME_CHARS = 64
MAX_REFERENCE_BYTES = 128 * 1024
"""Above 64 features of 64 bins with 9-byte numbers (76 KB)."""
MAX_COUNT = 2**53
"""Counts stay exact in a JSON or JavaScript reader, too."""


class DriftReference(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Bins and reference counts of a model's drift features.

    Attributes:
        features: names of the F numeric features, unique, without ``predicted_class``.
        edges: F rows of inner edges, finite and strictly increasing; K-1 edges make K bins, and
            a row may be empty (one bin) or shorter than the others.
        class_ids: the classes with a bin of their own, strictly increasing.
        counts: F + 1 rows of reference counts, one per bin, NaN left out; the last row is the
            predicted class with ``len(class_ids) + 1`` bins.
        nan_counts: F + 1 counts of NaN; the last is 0.
        n: rows counted; every row of ``counts`` plus its NaN count sums to it.

    Raises:
        ContractError: from the constructor, when any of this does not hold.
    """

    features: tuple[str, ...]
    edges: tuple[tuple[float, ...], ...]
    class_ids: tuple[int, ...]
    counts: tuple[tuple[int, ...], ...]
    nan_counts: tuple[int, ...]
    n: int
    schema: int = 1

    def __post_init__(self) -> None:
        _check_names(self)
        _check_edges(self)
        _check_counts(self)

    @property
    def names(self) -> tuple[str, ...]:
        """All F + 1 feature names, the predicted class last."""
        return (*self.features, PREDICTED_CLASS)

    @property
    def bins(self) -> tuple[int, ...]:
        """Bins of each of the F + 1 features, the NaN bin not counted."""
        return (*(len(row) + 1 for row in self.edges), len(self.class_ids) + 1)

    @property
    def edges_digest(self) -> str:
        """``sha256:<hex>`` of the canonical MessagePack of names, edges and class ids."""
        # 0.0 + e turns -0.0 into 0.0: equal edges must have equal bytes.
        edges = [[0.0 + edge for edge in row] for row in self.edges]
        canonical = msgspec.msgpack.encode([1, self.features, edges, self.class_ids])
        return "sha256:" + hashlib.sha256(canonical).hexdigest()

    def encode(self) -> bytes:
        """MessagePack with field names; equal references give equal bytes."""
        return msgspec.msgpack.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> DriftReference:
        """Reads what ``encode`` wrote.

        Raises:
            ContractError: too long, not MessagePack, or not a valid reference.
        """
        if len(data) > MAX_REFERENCE_BYTES:
            raise ContractError(
                f"drift reference: expected at most {MAX_REFERENCE_BYTES} bytes, got {len(data)}"
            )
        try:
            return msgspec.msgpack.decode(data, type=cls)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise ContractError(f"drift reference: not the agreed MessagePack: {error}") from error


def _check_names(reference: DriftReference) -> None:
    names = reference.features
    if reference.schema != 1:
        raise ContractError(f"drift reference: expected schema 1, got {reference.schema}")
    if len(names) > MAX_FEATURES:
        raise ContractError(
            f"drift reference: expected at most {MAX_FEATURES} features, got {len(names)}"
        )
    for name in names:
        if not 1 <= len(name) <= MAX_NAME_CHARS or not name.isprintable():
            raise ContractError(
                f"drift reference: expected feature names of 1 to {MAX_NAME_CHARS} printable "
                f"characters, got {name[: MAX_NAME_CHARS + 1]!r}"
            )
    if len({*names, PREDICTED_CLASS}) != len(names) + 1:
        raise ContractError(
            f"drift reference: expected unique feature names other than {PREDICTED_CLASS!r}, "
            f"got {list(names)}"
        )


def _check_edges(reference: DriftReference) -> None:
    if len(reference.edges) != len(reference.features):
        raise ContractError(
            f"drift reference: expected {len(reference.features)} rows of edges, one a feature, "
            f"got {len(reference.edges)}"
        )
    for name, row in zip(reference.features, reference.edges, strict=True):
        if len(row) >= MAX_BINS:
            raise ContractError(
                f"drift reference, {name}: expected at most {MAX_BINS - 1} edges, got {len(row)}"
            )
        if not all(math.isfinite(edge) for edge in row):
            raise ContractError(f"drift reference, {name}: expected finite edges, got {list(row)}")
        if any(low >= high for low, high in pairwise(row)):
            raise ContractError(
                f"drift reference, {name}: expected strictly increasing edges, got {list(row)}"
            )
    ids = reference.class_ids
    if len(ids) >= MAX_BINS or any(not 0 <= i <= MAX_COUNT for i in ids):
        raise ContractError(
            f"drift reference: expected at most {MAX_BINS - 1} class ids from 0 up, got {list(ids)}"
        )
    if any(low >= high for low, high in pairwise(ids)):
        raise ContractError(
            f"drift reference: expected strictly increasing class ids, got {list(ids)}"
        )


def _check_counts(reference: DriftReference) -> None:
    names, bins = reference.names, reference.bins
    if not 1 <= reference.n <= MAX_COUNT:
        raise ContractError(
            f"drift reference: expected 1 to {MAX_COUNT} rows, got n = {reference.n}"
        )
    if len(reference.counts) != len(names) or len(reference.nan_counts) != len(names):
        raise ContractError(
            f"drift reference: expected counts and NaN counts of {len(names)} features "
            f"(the last is {PREDICTED_CLASS}), got {len(reference.counts)} and "
            f"{len(reference.nan_counts)}"
        )
    for name, size, row, nan in zip(
        names, bins, reference.counts, reference.nan_counts, strict=True
    ):
        check_bin_counts(f"drift reference, {name}", row, nan, n=reference.n)
        if len(row) != size:
            raise ContractError(
                f"drift reference, {name}: expected {size} counts for {size} bins, got {len(row)}"
            )
    if reference.nan_counts[-1] != 0:
        raise ContractError(f"drift reference: {PREDICTED_CLASS} has no NaN; count it as 'other'")


def check_bin_counts(where: str, counts: tuple[int, ...], nan_count: int, *, n: int) -> None:
    """Refuses counts that are negative or do not sum, with the NaN count, to ``n``.

    Raises:
        ContractError: naming ``where``.
    """
    if nan_count < 0 or any(count < 0 for count in counts):
        raise ContractError(f"{where}: expected counts from 0 up, got {list(counts)}, {nan_count}")
    total = sum(counts) + nan_count
    if total != n:
        raise ContractError(f"{where}: expected counts that sum to n = {n}, got {total}")


def pool_bins(counts: Sequence[int], *, least: float, tail: float = 0.0) -> tuple[int, ...]:
    """Joins neighbouring bins into cells that hold enough to be judged by.

    A reference has bins well outside its own data, so that a device whose data lies there still
    has a resolution; where they are empty they must not count as evidence one by one.

    Args:
        counts: of ordered bins, NaN left out.
        least: every cell but the tails holds at least this share of the counts.
        tail: the outermost bins that hold at most this share together, below one half, become a
            cell of their own at either end; 0 makes no tails.

    Returns:
        the cell of each bin, counted from 0, never decreasing.
    """
    total, size = sum(counts), len(counts)
    if not total:
        return (0,) * size
    low = _tail_bins(counts, tail * total) if tail > 0 else 0
    high = size - (_tail_bins(counts[::-1], tail * total) if tail > 0 else 0)
    starts, held = [], math.inf
    for index in range(low, high):
        if held >= least * total:
            starts.append(index)
            held = 0
        held += counts[index]
    if len(starts) > 1 and held < least * total:
        starts.pop()
    boundaries = {*starts, high} - {0}
    cells, cell = [], 0
    for index in range(size):
        cell += index in boundaries
        cells.append(cell)
    return tuple(cells)


def _tail_bins(counts: Sequence[int], most: float) -> int:
    """How many leading bins hold at most ``most`` together."""
    return sum(held <= most for held in accumulate(counts))
