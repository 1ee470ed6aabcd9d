"""Synthetic feature streams: eight dependent numeric features and ten classes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest

from edge_contract.reference import DriftReference
from edge_runtime.reference import build_reference

Rows = tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]
Stream = Callable[..., Rows]

NAMES = ("brightness", "contrast", "sharpness", "noise", "ratio", "confidence", "entropy", "margin")


def draw(rng: np.random.Generator, n: int, *, shift: float = 0.0) -> Rows:
    """``n`` rows; ``shift`` moves the first feature by so many standard deviations."""
    rows = rng.standard_normal((n, len(NAMES)))
    rows[:, 1] = 0.8 * rows[:, 0] + 0.6 * rows[:, 1]  # features of one sample may depend
    rows[:, 2] = rows[:, 2] ** 2
    rows[:, 3] = np.abs(rows[:, 0])
    rows[:, 5] = np.minimum(rows[:, 5], 1.0)  # saturates in 16 % of the samples
    rows[:, 0] += shift
    return rows, rng.integers(0, 10, n)


@pytest.fixture
def stream() -> Stream:
    return draw


@pytest.fixture(scope="session")
def reference() -> DriftReference:
    """5,000 rows behind the edges, 5,000 behind the masses."""
    return build_reference(*draw(np.random.default_rng(1), 10_000), NAMES, classes=10)
