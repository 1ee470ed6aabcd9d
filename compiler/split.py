"""Set a part of the calibration data aside for choosing between candidates."""

from __future__ import annotations

import hashlib

import numpy as np
import numpy.typing as npt

SELECTION_SHARE = 0.25
SEED = 0

Rows = npt.NDArray[np.int64]


def selection_split(rows: int, *, seed: int = SEED) -> tuple[Rows, Rows]:
    """Row numbers to (calibrate with, select with), both sorted.

    A quarter of the rows selects. Rows are ordered by a hash of seed and row number, so the same
    ``rows`` and ``seed`` give the same split with every version of every library.

    Raises:
        ValueError: fewer than 2 rows.
    """
    if rows < 2:
        raise ValueError(f"{rows} rows cannot be split")
    order = sorted(range(rows), key=lambda row: hashlib.sha256(f"{seed}:{row}".encode()).digest())
    held = max(1, round(rows * SELECTION_SHARE))
    return np.sort(np.array(order[held:])), np.sort(np.array(order[:held]))
