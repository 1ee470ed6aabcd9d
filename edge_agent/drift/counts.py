"""Counts of binned samples: the mutable side of references and sketches."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from edge_agent.drift.state import FRESH_STATE_HINT
from edge_contract.errors import ContractError
from edge_contract.reference import MAX_COUNT, DriftReference

Rows = tuple[tuple[int, ...], ...]


class BinCounts:
    """How many samples fell into each bin of each feature, NaN bins included.

    Args:
        reference: whose bins to count.
    """

    def __init__(self, reference: DriftReference) -> None:
        sizes = np.array([size + 1 for size in reference.bins], np.int64)
        self._ends = np.cumsum(sizes)
        self._first = self._ends - sizes
        self._cells = np.zeros(int(sizes.sum()), np.int64)
        self.n = 0

    def add(self, bins: npt.NDArray[np.int64]) -> None:
        """Counts one sample's bins, int64 ``[F + 1]``."""
        self._cells[self._first + bins] += 1  # one cell a feature, so none occurs twice
        self.n += 1

    def rows(self) -> Rows:
        """F + 1 rows of counts; the last count of each row is that of NaN."""
        return tuple(tuple(row.tolist()) for row in np.split(self._cells, self._ends[:-1]))

    def clear(self) -> None:
        """Forgets all samples."""
        self._cells[:] = 0
        self.n = 0

    def restore(self, rows: Rows, n: int) -> None:
        """Takes over what ``rows`` gave for ``n`` samples.

        Raises:
            ContractError: rows of other lengths, or that do not sum to ``n``.
        """
        lengths = tuple((self._ends - self._first).tolist())
        if tuple(len(row) for row in rows) != lengths:
            raise ContractError(
                f"drift counts: expected rows of {lengths} bins, "
                f"got {tuple(len(row) for row in rows)}",
                hint=FRESH_STATE_HINT,
            )
        if not 0 <= n <= MAX_COUNT or any(min(row) < 0 or sum(row) != n for row in rows):
            raise ContractError(
                f"drift counts: expected rows of counts that sum to n = {n}; they are damaged",
                hint=FRESH_STATE_HINT,
            )
        self._cells[:] = [count for row in rows for count in row]
        self.n = n
