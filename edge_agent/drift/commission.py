"""Commissioning: a device counts its own reference before it may raise an alarm.

The compiler's reference describes the data that the model was built with; no camera looks quite
like it. So the device counts its own first samples on the bundle's edges. How far those are from
the compiler's is one finding, the *deployment gap*, stated once. Alarms are raised against the
device's own reference only, or every new camera would alarm for ever.
"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.drift.counts import BinCounts
from edge_agent.drift.state import FRESH_STATE_HINT, decode_state
from edge_contract.errors import ContractError
from edge_contract.reference import MAX_COUNT, DriftReference
from edge_contract.sketch import distance

MIN_SAMPLES = 100
"""Fewer could not find anything but a camera that has died."""

_LARGEST = 2**62

CORRELATED = 0.2
"""A lag-1 correlation of bins above which samples are too much alike to be counted as many."""


class _State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    edges_digest: str
    n: int
    rows: tuple[tuple[int, ...], ...]
    last: tuple[int, ...]
    sums: tuple[tuple[int, ...], ...]


class Commissioning:
    """Counts the first samples of a device on the bundle's edges.

    Args:
        reference: the bundle's reference, whose edges are used.
        n_target: samples to count, at least ``MIN_SAMPLES``.

    Raises:
        ValueError: a target that is too small.
    """

    def __init__(self, reference: DriftReference, n_target: int) -> None:
        if not MIN_SAMPLES <= n_target <= MAX_COUNT:
            raise ValueError(
                f"commissioning needs at least {MIN_SAMPLES} samples, got a target of {n_target}"
            )
        self.reference = reference
        self.n_target = n_target
        self._counts = BinCounts(reference)
        features = len(reference.bins)
        self._last = np.zeros(features, np.int64)
        # Of bins x and their predecessors y, per feature: sums of x, xx and xy.
        self._sums = np.zeros((3, features), np.int64)

    @property
    def n(self) -> int:
        """Samples counted so far."""
        return self._counts.n

    @property
    def done(self) -> bool:
        """Whether enough samples were counted."""
        return self.n >= self.n_target

    def add(self, bins: npt.NDArray[np.int64]) -> None:
        """Counts one sample's bins, int64 ``[F + 1]``, as ``Binner.bins`` gives them."""
        self._sums[0] += bins
        self._sums[1] += bins * bins
        if self.n:
            self._sums[2] += bins * self._last
        self._last[:] = bins
        self._counts.add(bins)

    def commissioned(self) -> DriftReference:
        """The device's own reference: the bundle's edges, the device's counts.

        Raises:
            ContractError: nothing was counted yet.
        """
        rows = self._counts.rows()
        return msgspec.structs.replace(
            self.reference,
            counts=tuple(row[:-1] for row in rows),
            nan_counts=tuple(row[-1] for row in rows),
            n=self.n,
        )

    def lag_correlation(self) -> dict[str, float]:
        """Correlation of each numeric feature's bin with that of the sample before, by name.

        The run-length bound needs samples that do not resemble their predecessors. This is an
        estimate to warn by, never one to set the sampling rate from.
        """
        if self.n < 2:
            return {}
        total, squares, products = self._sums.astype(np.float64)
        mean = total / self.n
        variance = squares / self.n - mean**2
        covariance = products / (self.n - 1) - mean**2
        return {
            name: float(covariance[i] / variance[i]) if variance[i] > 1e-12 else 0.0
            for i, name in enumerate(self.reference.features)
        }

    def state_bytes(self) -> bytes:
        """All that ``restore`` needs."""
        return msgspec.msgpack.encode(
            _State(
                edges_digest=self.reference.edges_digest,
                n=self.n,
                rows=self._counts.rows(),
                last=tuple(self._last.tolist()),
                sums=tuple(tuple(row) for row in self._sums.tolist()),
            )
        )

    def restore(self, data: bytes) -> None:
        """Goes on where ``state_bytes`` was taken.

        Raises:
            ContractError: damaged, or a state on other edges.
        """
        state = decode_state(data, _State, "commissioning state")
        if state.edges_digest != self.reference.edges_digest:
            raise ContractError(
                f"commissioning state: expected counts on edges {self.reference.edges_digest}, "
                f"got counts on {state.edges_digest}",
                hint=FRESH_STATE_HINT,
            )
        features = len(self._last)
        if len(state.last) != features or [len(row) for row in state.sums] != [features] * 3:
            raise ContractError(
                f"commissioning state: expected sums of {features} features; it is damaged",
                hint=FRESH_STATE_HINT,
            )
        if any(not 0 <= value <= _LARGEST for row in (state.last, *state.sums) for value in row):
            raise ContractError(
                f"commissioning state: expected sums from 0 to {_LARGEST}; it is damaged",
                hint=FRESH_STATE_HINT,
            )
        self._counts.restore(state.rows, state.n)
        self._last[:] = state.last
        self._sums[:] = state.sums


class Gap(msgspec.Struct, frozen=True):
    """How far a device's own reference is from the bundle's.

    Attributes:
        psi: population stability index by feature name, NaN counted as a bin.
        ks: Kolmogorov-Smirnov distance by feature name (total variation for the class).
        worst: up to three names, largest PSI first.
    """

    psi: dict[str, float]
    ks: dict[str, float]
    worst: tuple[str, ...]


def deployment_gap(reference: DriftReference, commissioned: DriftReference) -> Gap:
    """Compares the device's own reference with the bundle's, feature by feature.

    Raises:
        ContractError: they do not share their edges.
    """
    if reference.edges_digest != commissioned.edges_digest:
        raise ContractError(
            f"a deployment gap needs references on one set of edges, got "
            f"{reference.edges_digest} and {commissioned.edges_digest}"
        )
    psi, ks = {}, {}
    for index, name in enumerate(reference.names):
        found = distance(
            (reference.counts[index], reference.nan_counts[index]),
            (commissioned.counts[index], commissioned.nan_counts[index]),
            ordered=index < len(reference.features),
        )
        psi[name], ks[name] = found.psi, found.ks
    worst = sorted(psi, key=lambda name: -psi[name])[:3]
    return Gap(psi, ks, tuple(worst))
