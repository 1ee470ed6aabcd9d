"""Samples of one role, and what identifies them."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from compiler.calibrate.ranges import Samples
from compiler.datasets.frames import Frames, FrameStore, blocks
from compiler.errors import DatasetError
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor

Labels = npt.NDArray[Any]


@dataclass(frozen=True)
class Dataset:
    """The samples of one role.

    role: ``calibration``, ``selection`` or ``test``, for messages.
    x: raw frames ``[n, ...]``, uint8 or float32.
    y: labels ``[n, ...]``, int64 or finite float32, or ``None`` where the data have none.
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

    def constant_inputs(self) -> list[str]:
        """What of the frames never changes: arrays, or columns of frames that are vectors."""
        low, high = extremes(self.x)
        same = low == high
        if isinstance(self.x, FrameStore) and len(self.x.columns) > 1:
            sizes = [math.prod(column.shape[1:]) for column in self.x.columns.values()]
            parts = np.split(same, np.cumsum(sizes)[:-1])
            return [
                f"input {name!r} is constant"
                for name, part in zip(self.x.columns, parts, strict=True)
                if part.all()
            ]
        if low.ndim == 1:
            return [f"column {column} is always {low[column]:g}" for column in np.flatnonzero(same)]
        return []

    def rows(self, index: npt.NDArray[np.int64], role: str) -> Dataset:
        """The samples at ``index`` as a dataset of its own."""
        x = self.x.rows(index) if isinstance(self.x, FrameStore) else self.x[index]
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


def extremes(x: Frames) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
    """The least and the greatest frame, value by value."""
    low = high = x[0]
    for block in blocks(x):
        low, high = np.minimum(low, block.min(axis=0)), np.maximum(high, block.max(axis=0))
    return low, high


def contents_digest(x: Frames, y: npt.NDArray[np.generic] | None) -> str:
    """A digest of the arrays' dtypes, shapes and values."""
    state = hashlib.sha256()
    arrays: dict[str, Frames] = {"x": x}
    if isinstance(x, FrameStore) and len(x.columns) > 1:
        arrays = {f"x:{name}": x.only(name) for name in x.columns}
    if y is not None:
        arrays["y"] = y
    for name, array in arrays.items():
        dtype = array.dtype.newbyteorder("<")
        state.update(f"{name} {dtype.str} {array.shape}\n".encode())
        for block in blocks(array):
            state.update(np.ascontiguousarray(block, dtype=dtype).tobytes())
    return "sha256:" + state.hexdigest()
