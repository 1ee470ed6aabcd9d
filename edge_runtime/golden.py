"""The golden check: does this file, on this machine, still give the answers it was proven with?"""

from __future__ import annotations

import msgspec
import numpy as np
import numpy.typing as npt

from edge_contract.golden import GoldenVectors, Tensor
from edge_runtime.classes import ClassScores
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession
from edge_runtime.tensors import Tensors, join


class GoldenResult(msgspec.Struct, frozen=True):
    """What the check found.

    difference_max: the largest absolute difference of a score.
    wrong_rows: rows whose values differ by more than the tolerance, or whose class differs.
    """

    rows: int
    wrong_rows: tuple[int, ...]
    difference_max: float
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every row agreed."""
        return not self.wrong_rows

    def sentence(self) -> str:
        """One line for a log or a status message."""
        if self.passed:
            return f"golden vectors agree: {self.rows} rows, difference {self.difference_max:.3g}"
        return (
            f"golden vectors differ: {len(self.wrong_rows)} of {self.rows} rows"
            f" (difference {self.difference_max:.3g}, tolerance {self.tolerance:.3g})"
        )


def to_tensor(array: npt.NDArray[np.generic]) -> Tensor:
    """An array as it is stored in a bundle (little-endian, C order).

    Raises:
        ModelRuntimeError: a dtype that a bundle does not hold.
    """
    if array.dtype.name not in ("uint8", "int8", "float32", "int64"):
        raise ModelRuntimeError(f"dtype {array.dtype} cannot be stored as a golden vector")
    plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    return Tensor(array.dtype.name, list(array.shape), plain.tobytes())


def from_tensor(tensor: Tensor) -> npt.NDArray[np.generic]:
    """The array behind a stored tensor."""
    dtype = np.dtype(tensor.dtype).newbyteorder("<")
    return np.frombuffer(tensor.data, dtype=dtype).reshape(tensor.shape)


def check_golden(session: ModelSession, golden: GoldenVectors) -> GoldenResult:
    """Run every golden frame and compare.

    Raises:
        InputRefusedError: a golden frame does not fit the bundle's own preprocessing.
        ModelRuntimeError: the model gives another number of scores, or fails.
    """
    expected = from_tensor(golden.scores).astype(np.float32)
    actual = session.scores(from_tensor(golden.frames))
    if actual.shape != expected.shape:
        raise ModelRuntimeError(
            f"golden vectors expect scores of shape {expected.shape}, the model gives"
            f" {actual.shape}"
        )
    sizes = session.outputs.sizes
    each = [] if golden.tolerances_abs is msgspec.UNSET else golden.tolerances_abs
    if each and (len(each) != len(sizes) or sum(sizes) != expected.shape[1]):
        raise ModelRuntimeError(
            f"golden vectors hold {len(each)} tolerances for {expected.shape[1]} values, the model"
            f" has {len(sizes)} outputs of {sum(sizes)}"
        )
    tolerance = np.repeat(each, sizes) if each else np.float64(golden.tolerance_abs)
    task = session.manifest.task
    if task == "detection":
        actual, expected = (_in_order(rows, session.outputs) for rows in (actual, expected))
    difference = np.abs(actual - expected)
    # A NaN compares false with everything, so ask for what must hold, not for what must not.
    agrees = (difference <= tolerance).all(axis=1)
    if task == "classification":
        classes = ClassScores(session.manifest)
        agrees &= classes.of(actual).argmax(axis=1) == classes.of(expected).argmax(axis=1)
    return GoldenResult(
        rows=len(expected),
        wrong_rows=tuple(int(row) for row in np.flatnonzero(~agrees)),
        difference_max=float(np.nan_to_num(difference, nan=np.inf).max()),
        tolerance=golden.tolerance_abs,
    )


def _in_order(rows: FloatArray, outputs: Tensors) -> FloatArray:
    """Every column of every output sorted by its values: two boxes of nearly one score may change
    places, and sorting never makes the largest difference of two rows greater."""
    parts = [outputs.split(row[None]).values() for row in rows]
    return np.stack(
        [join([np.sort(part, axis=1) if part.ndim > 1 else part for part in row]) for row in parts]
    )
