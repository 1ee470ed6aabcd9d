"""Building a drift reference from rows of features, and finding the bins of new rows.

The compiler builds a reference from calibration data; the device counts its own on the same
edges. Both find bins with ``Binner``, so a value on an edge falls the same way everywhere.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_contract.reference import DriftReference

Array = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

DEFAULT_BINS = 10
"""Deciles: what the detector's bets and its confidence box are made for."""

MAX_QUANTILE_BINS = 32

_REACH = (0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Outer edges below the first and above the last quantile, in spreads (last minus first). They
are nearly empty here. A device that counts its own reference far from this one needs them: with
all of its data in one overflow bin it could not see any further change."""

MAX_CLASS_BINS = 31
"""Classes with a bin of their own; with 'every other class' that makes 32 bins."""

MIN_ROWS = 20
"""Below this, half of the rows do not even fill ten bins once."""

_MARGIN = 1e-6
"""How far below a value its edge lies, relative to the largest value: a value that occurs again
and again must fall on the same side when another processor rounds it differently."""


class Binner:
    """Finds bins on one reference's edges.

    Args:
        reference: the reference whose edges and class ids to use.
    """

    def __init__(self, reference: DriftReference) -> None:
        features = len(reference.features)
        widest = max((len(row) for row in reference.edges), default=0)
        self._edges = np.full((features, widest), np.nan)  # no value is >= NaN: padding adds 0
        for index, row in enumerate(reference.edges):
            self._edges[index, : len(row)] = row
        self._nan_bin = np.array([len(row) + 1 for row in reference.edges], np.int64)
        self._class_bin = {class_id: k for k, class_id in enumerate(reference.class_ids)}
        self._features = features

    def bins(self, features: Array, class_id: int) -> Ints:
        """Bins of one sample: int64 ``[F + 1]`` from float64 ``[F]`` and its class.

        NaN falls into the bin after the last; a class without a bin into 'every other class'.

        Raises:
            ValueError: another number of features than the reference has.
        """
        if features.shape != (self._features,):
            raise ValueError(
                f"expected {self._features} drift features as the reference has, "
                f"got shape {features.shape}"
            )
        found = np.empty(self._features + 1, np.int64)
        found[:-1] = (self._edges <= features[:, None]).sum(1)
        nan = np.isnan(features)
        if nan.any():
            found[:-1][nan] = self._nan_bin[nan]
        found[-1] = self._class_bin.get(class_id, len(self._class_bin))
        return found

    def rows(self, features: Array, class_ids: npt.NDArray[np.integer]) -> Ints:
        """Bins of N samples: int64 ``[N, F + 1]`` from float64 ``[N, F]`` and ``[N]`` classes.

        Raises:
            ValueError: shapes that do not belong together.
        """
        if features.ndim != 2 or class_ids.shape != features.shape[:1]:
            raise ValueError(
                f"expected N rows of features and N class ids, got shapes {features.shape} "
                f"and {class_ids.shape}"
            )
        if features.shape[1] != self._features:
            raise ValueError(
                f"expected {self._features} drift features as the reference has, "
                f"got shape {features.shape}"
            )
        found = np.empty((len(features), self._features + 1), np.int64)
        for index, edges in enumerate(self._edges):
            column = features[:, index]
            size = int(self._nan_bin[index]) - 1
            found[:, index] = np.searchsorted(edges[:size], column, side="right")
            found[np.isnan(column), index] = self._nan_bin[index]
        other = len(self._class_bin)
        found[:, -1] = [self._class_bin.get(class_id, other) for class_id in class_ids.tolist()]
        return found


def bin_indices(
    reference: DriftReference, features: Array, class_ids: npt.NDArray[np.integer]
) -> Ints:
    """Bins of N samples on the reference's edges; see ``Binner.rows``. Keep a ``Binner`` for more.

    Raises:
        ValueError: shapes that do not belong together.
    """
    return Binner(reference).rows(features, class_ids)


def build_reference(
    features: Array,
    class_ids: npt.NDArray[np.integer],
    names: Sequence[str],
    *,
    classes: int,
    bins: int = DEFAULT_BINS,
    seed: int = 0,
    edges_from: DriftReference | None = None,
) -> DriftReference:
    """A reference from N rows of features of data that is as it should be.

    Edges come from one random half of the rows and masses from the other, because masses counted
    on the rows that placed the edges look more even than they are. With ``edges_from``, the
    reference of an earlier version of the model line, its edges are kept and all rows are counted.

    A value that fills a whole quantile step (a saturated confidence, a constant feature) gets a
    narrow bin of its own, so that leaving it to either side shows; there are then fewer bins.

    Args:
        features: float64 ``[N, F]``; NaN is counted apart.
        class_ids: the predicted classes, ``[N]``.
        names: the F feature names.
        classes: number of classes of the model. Above ``MAX_CLASS_BINS`` the classes that were
            predicted most often in the edge half get a bin each and the others share one.
        bins: quantile bins of a numeric feature, 2 to 32; up to 16 outer bins come on top.
        seed: of the split in halves; the same input and seed give the same reference.
        edges_from: whose edges, class ids and names to inherit.

    Raises:
        ValueError: too few rows, shapes that do not belong together, a bad number of bins, or
            names other than those of ``edges_from``.
    """
    if features.ndim != 2 or features.shape[1] != len(names):
        raise ValueError(
            f"expected rows of {len(names)} features {list(names)}, got shape {features.shape}"
        )
    if len(features) < MIN_ROWS:
        raise ValueError(
            f"a drift reference needs at least {MIN_ROWS} rows (and 5,000 to find small shifts), "
            f"got {len(features)}"
        )
    if not 2 <= bins <= MAX_QUANTILE_BINS:
        raise ValueError(f"expected 2 to {MAX_QUANTILE_BINS} bins, got {bins}")
    if edges_from is not None:
        if tuple(names) != edges_from.features:
            raise ValueError(
                f"edges to inherit are of features {list(edges_from.features)}, "
                f"the rows have {list(names)}"
            )
        return count_reference(edges_from, bin_indices(edges_from, features, class_ids))
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(features))
    for_edges, for_masses = order[: len(order) // 2], order[len(order) // 2 :]
    edges = tuple(_quantile_edges(column, bins) for column in features[for_edges].T)
    ids = _binned_classes(class_ids[for_edges], classes)
    blank = DriftReference(  # bins only; one row in each first bin, for a reference needs rows
        features=tuple(names),
        edges=edges,
        class_ids=ids,
        counts=(*((1, *([0] * len(row))) for row in edges), (1, *([0] * len(ids)))),
        nan_counts=(0,) * (len(names) + 1),
        n=1,
    )
    return count_reference(blank, bin_indices(blank, features[for_masses], class_ids[for_masses]))


def count_reference(edges_from: DriftReference, bins: Ints) -> DriftReference:
    """The reference with the same edges whose counts are those of ``bins``, int64 ``[N, F + 1]``.

    Raises:
        ContractError: no rows.
    """
    counts, nan_counts = [], []
    for index, size in enumerate(edges_from.bins):
        row = np.bincount(bins[:, index], minlength=size + 1).tolist()
        counts.append(tuple(row[:size]))
        nan_counts.append(row[size])
    return DriftReference(
        features=edges_from.features,
        edges=edges_from.edges,
        class_ids=edges_from.class_ids,
        counts=tuple(counts),
        nan_counts=tuple(nan_counts),
        n=len(bins),
    )


def _quantile_edges(column: Array, bins: int) -> tuple[float, ...]:
    values = column[np.isfinite(column)]
    if values.size == 0:
        return ()
    quantiles = np.quantile(values, np.linspace(0, 1, bins + 1)[1:-1])
    margin = _MARGIN * float(np.abs(values).max()) or _MARGIN
    edges: list[float] = []
    for value, repeats in zip(*np.unique(quantiles, return_counts=True), strict=True):
        edges += [value - margin] if repeats == 1 else [value - margin, value + margin]
    low, high = min(edges), max(edges)
    spread = high - low
    if spread > 4 * margin:  # else there is one value and no scale to reach out by
        edges += [low - reach * spread for reach in _REACH]
        edges += [high + reach * spread for reach in _REACH]
    return tuple(float(edge) for edge in np.unique(edges) if np.isfinite(edge))


def _binned_classes(class_ids: npt.NDArray[np.integer], classes: int) -> tuple[int, ...]:
    if classes <= MAX_CLASS_BINS:
        return tuple(range(classes))
    seen = np.bincount(class_ids[class_ids >= 0], minlength=classes)
    most = np.argsort(-seen, kind="stable")[:MAX_CLASS_BINS]
    return tuple(sorted(most.tolist()))
