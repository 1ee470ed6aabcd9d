"""Samples of one role, and what identifies them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.errors import DatasetError
from compiler.ranges import Samples
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor

Frames = npt.NDArray[np.generic]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Dataset:
    """The samples of one role.

    role: ``calibration``, ``selection`` or ``test``, for messages.
    x: raw frames ``[n, ...]``, uint8 or float32.
    y: class ids int64 ``[n]``, or ``None`` where the data have no labels.
    digest: of the contents (names, dtypes, shapes, values), not of the file: packing the same
        samples anew does not change it.
    classes: names by class id where the data themselves set the order (sub-folders of images
        without ``--labels``), else empty.
    """

    role: str
    x: Frames
    y: Labels | None
    digest: str
    classes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.x)

    def row_hashes(self) -> list[bytes]:
        """A hash of every sample, to find the same sample elsewhere."""
        return [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in self.x]

    def rows(self, index: npt.NDArray[np.int64], role: str) -> Dataset:
        """The samples at ``index`` as a dataset of its own."""
        x = self.x[index]
        y = None if self.y is None else self.y[index]
        return Dataset(role, x, y, contents_digest(x, y), self.classes)


def stream(x: Frames, preprocessor: Preprocessor, role: str) -> Samples:
    """Model inputs float32 ``[1, ...]`` of the frames ``x``, one at a time, anew at each call."""

    def samples() -> Iterator[npt.NDArray[np.float32]]:
        for row, frame in enumerate(x):
            try:
                yield preprocessor(frame)
            except InputRefusedError as error:
                raise DatasetError(f"{role} data, row {row}: {error.message}") from error

    return samples


def contents_digest(x: Frames, y: npt.NDArray[np.generic] | None) -> str:
    """A digest of the arrays' dtypes, shapes and values."""
    state = hashlib.sha256()
    for name, array in (("x", x), ("y", y)):
        if array is not None:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            state.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
            state.update(little.data if little.size else b"")
    return "sha256:" + state.hexdigest()
