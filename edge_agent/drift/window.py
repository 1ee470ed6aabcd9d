"""The running window of a device's drift sketch."""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from edge_agent.drift.counts import BinCounts
from edge_agent.drift.state import FRESH_STATE_HINT, decode_state
from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch, FeatureSketch, pack_range


class _State(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    n: int
    rows: tuple[tuple[int, ...], ...]
    minimum: tuple[float, ...]
    maximum: tuple[float, ...]


class SketchWindow:
    """Counts and ranges of the samples since the last ``take``.

    Args:
        reference: whose bins to count on.
    """

    def __init__(self, reference: DriftReference) -> None:
        self._edges_digest = reference.edges_digest
        self._counts = BinCounts(reference)
        self._minimum = np.full(len(reference.features), np.inf)
        self._maximum = np.full(len(reference.features), -np.inf)

    def add(self, features: npt.NDArray[np.float64], bins: npt.NDArray[np.int64]) -> None:
        """Counts one sample: its features, float64 ``[F]``, and their bins, int64 ``[F + 1]``."""
        self._counts.add(bins)
        np.fmin(self._minimum, features, out=self._minimum)  # fmin and fmax pass over NaN
        np.fmax(self._maximum, features, out=self._maximum)

    def sketch(self) -> DriftSketch:
        """The window so far."""
        ranges = [
            *zip(self._minimum.tolist(), self._maximum.tolist(), strict=True),
            (float("inf"), float("-inf")),  # the predicted class has no range
        ]
        return DriftSketch(
            edges_digest=self._edges_digest,
            n=self._counts.n,
            features=tuple(
                FeatureSketch(row[:-1], row[-1], pack_range(low, high))
                for row, (low, high) in zip(self._counts.rows(), ranges, strict=True)
            ),
        )

    def take(self) -> DriftSketch:
        """The window so far, and starts the next one."""
        sketch = self.sketch()
        self._counts.clear()
        self._minimum[:] = np.inf
        self._maximum[:] = -np.inf
        return sketch

    def state_bytes(self) -> bytes:
        """All that ``restore`` needs."""
        return msgspec.msgpack.encode(
            _State(
                n=self._counts.n,
                rows=self._counts.rows(),
                minimum=tuple(self._minimum.tolist()),
                maximum=tuple(self._maximum.tolist()),
            )
        )

    def restore(self, data: bytes) -> None:
        """Goes on where ``state_bytes`` was taken.

        Raises:
            ContractError: damaged, or of other bins.
        """
        state = decode_state(data, _State, "drift window state")
        features = len(self._minimum)
        low, high = np.array(state.minimum, float), np.array(state.maximum, float)
        if low.shape != (features,) or high.shape != (features,):
            raise ContractError(
                f"drift window state: expected ranges of {features} features, "
                f"got {len(state.minimum)} and {len(state.maximum)}",
                hint=FRESH_STATE_HINT,
            )
        if not ((low <= high) | ((low == np.inf) & (high == -np.inf))).all():
            raise ContractError(
                "drift window state: expected min <= max; the state is damaged",
                hint=FRESH_STATE_HINT,
            )
        self._counts.restore(state.rows, state.n)
        self._minimum[:], self._maximum[:] = low, high
