"""Models with any number of inputs and outputs: one frame in, one row of numbers out.

A frame of a model with one input is that input. A frame of a model with several is one float32
vector, the inputs one after another in the order of ``model.json``; so it can be stored, compared
and fed like any other frame. An answer is one float32 row, the outputs one after another.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from edge_contract.model import TensorSpec

FloatArray = npt.NDArray[np.float32]


class Tensors:
    """The inputs, or the outputs, of a model.

    Args:
        specs: as in ``model.json``.

    Attributes:
        shapes: each tensor's shape for one frame, without the batch axis.
        sizes: values of each for one frame.
    """

    def __init__(self, specs: Sequence[TensorSpec]) -> None:
        self.names = tuple(spec.name for spec in specs)
        self.shapes = tuple(_one_frame(spec.shape) for spec in specs)
        self.sizes = tuple(math.prod(shape) for shape in self.shapes)
        self._batched = tuple(not spec.shape or spec.shape[0] in (None, 1) for spec in specs)

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one frame: that of the only tensor, or a vector of all values."""
        return self.shapes[0] if len(self.shapes) == 1 else (sum(self.sizes),)

    def split(self, rows: FloatArray) -> dict[str, FloatArray]:
        """Rows ``[n, *row_shape]`` (or flat, ``[n, values]``) -> each tensor by name, ``[n, ...]``.

        A tensor without a batch axis comes as it is, so ``n`` must then be 1.
        """
        flat = rows.reshape(len(rows), -1)
        ends = np.cumsum(self.sizes)
        found = {}
        for name, shape, size, end, batched in zip(
            self.names, self.shapes, self.sizes, ends, self._batched, strict=True
        ):
            part = np.ascontiguousarray(flat[:, end - size : end])
            found[name] = part.reshape((len(rows), *shape) if batched else shape)
        return found


def join(arrays: Sequence[npt.NDArray[np.generic]]) -> FloatArray:
    """Tensors of one frame as one float32 row; whole numbers are exact up to 2 ** 24."""
    if len(arrays) == 1:
        return np.asarray(arrays[0], np.float32).reshape(-1)
    return np.concatenate([np.asarray(array, np.float32).reshape(-1) for array in arrays])


def _one_frame(shape: Sequence[int | None]) -> tuple[int, ...]:
    static = [1 if size is None else size for size in shape]
    return tuple(static[1:] if static and static[0] == 1 else static)
