"""Dense layers as matrices: a Conv, Gemm or MatMul is ``rows @ matrix + bias``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, NodeProto

from compiler.prune.channels import Shape, attribute, dense_axes

Array = npt.NDArray[np.float64]
Picked = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Dense:
    """One dense layer of a graph.

    op, name: of its node. x, y: its input and output tensor. weight, bias: its initializers;
        a MatMul has no bias.
    inputs, outputs: numbers of channels. taps: kernel elements, 1 without a kernel.
    """

    node: NodeProto
    name: str
    x: str
    y: str
    weight: str
    bias: str | None
    inputs: int
    outputs: int
    kernel: Shape

    @property
    def taps(self) -> int:
        """Columns of one input channel."""
        return math.prod(self.kernel)

    def matrix(self, weight: npt.NDArray[np.float32]) -> Array:
        """The weights as float64 ``[inputs * taps, outputs]``, a channel's taps side by side."""
        wide = np.asarray(weight, np.float64)
        if self._outputs_first:
            wide = wide.reshape(self.outputs, -1).T
        return np.array(wide)

    def weights(self, matrix: Array) -> npt.NDArray[np.float32]:
        """The inverse of ``matrix``."""
        narrow = matrix.astype(np.float32)
        if self._outputs_first:
            return np.ascontiguousarray(narrow.T).reshape(self.outputs, self.inputs, *self.kernel)
        return narrow

    @property
    def _outputs_first(self) -> bool:
        return self.node.op_type == "Conv" or bool(attribute(self.node, "transB", 0))

    def pick(self, shape: Shape, limit: int, rng: np.random.Generator) -> Picked:
        """Rows of one sample, at most ``limit``, drawn without replacement, in order.

        Args:
            shape: of the layer's output for that sample, ``[1, ...]``.
        """
        count = math.prod(shape) // self.outputs
        if count <= limit:
            return np.arange(count)
        return np.sort(rng.choice(count, limit, replace=False))

    def inputs_at(self, x: npt.NDArray[np.float32], shape: Shape, picked: Picked) -> Array:
        """Rows ``[rows, inputs * taps]`` float64 of the layer's input ``x`` ``[1, ...]``."""
        if self.node.op_type != "Conv":
            flat: Array = x.reshape(-1, self.inputs)[picked].astype(np.float64)
            return flat
        rows = self.windows_at(x, shape, picked).swapaxes(0, 1)
        wide: Array = rows.reshape(len(picked), -1).astype(np.float64)
        return wide

    def windows_at(
        self, x: npt.NDArray[np.float32], shape: Shape, picked: Picked
    ) -> npt.NDArray[np.float32]:
        """What a convolution's kernel sees, ``[channels of x, rows, *kernel]``."""
        every: tuple[Any, ...] = (slice(None), *np.unravel_index(picked, shape[2:]))
        found: npt.NDArray[np.float32] = self._patches(x, shape[2:])[every]
        return found

    def outputs_at(self, y: npt.NDArray[np.float32], picked: Picked) -> Array:
        """Rows ``[rows, outputs]`` float64 of a tensor of the shape of the layer's output."""
        if self.node.op_type != "Conv":
            flat: Array = y.reshape(-1, self.outputs)[picked].astype(np.float64)
            return flat
        rows: Array = y[0].reshape(self.outputs, -1)[:, picked].T.astype(np.float64)
        return rows

    def _patches(self, x: npt.NDArray[np.float32], out: Shape) -> npt.NDArray[np.float32]:
        """A view ``[channels, *out, *kernel]`` of the padded input."""
        rank = len(out)
        strides = list(attribute(self.node, "strides", [1] * rank))
        dilations = list(attribute(self.node, "dilations", [1] * rank))
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, self.kernel, strict=True)]
        pads = self._pads(x.shape[2:], out, strides, reach)
        padded = np.pad(x[0], [(0, 0), *pads])
        view = np.lib.stride_tricks.sliding_window_view(padded, reach, tuple(range(1, rank + 1)))
        steps = [slice(None, s * o, s) for s, o in zip(strides, out, strict=True)]
        taps = [slice(None, None, d) for d in dilations]
        every: tuple[Any, ...] = (slice(None), *steps, *taps)
        found: npt.NDArray[np.float32] = view[every]
        return found

    def _pads(
        self, size: Shape, out: Shape, strides: list[int], reach: list[int]
    ) -> list[tuple[int, int]]:
        rank = len(out)
        auto = attribute(self.node, "auto_pad", b"NOTSET")
        if auto in (b"SAME_UPPER", b"SAME_LOWER"):
            total = [
                max((o - 1) * s + r - n, 0)
                for n, o, s, r in zip(size, out, strides, reach, strict=True)
            ]
            less = [t // 2 for t in total]
            more = [t - b for t, b in zip(total, less, strict=True)]
            begin, end = (less, more) if auto == b"SAME_UPPER" else (more, less)
            return list(zip(begin, end, strict=True))
        pads = list(attribute(self.node, "pads", [0] * (2 * rank)))
        return list(zip(pads[:rank], pads[rank:], strict=True))


def list_dense(graph: GraphProto) -> dict[str, Dense]:
    """Every dense layer by node name, in the order of execution."""
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Dense] = {}
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.domain not in ("", "ai.onnx"):
            continue
        shape = dims.get(node.input[1])
        axes = None if shape is None else dense_axes(node, shape)
        if shape is None or axes is None or node.input[0] in dims:
            continue
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and dims.get(bias) != (shape[axes[1]],):
            continue
        found[node.name] = Dense(
            node=node,
            name=node.name,
            x=node.input[0],
            y=node.output[0],
            weight=node.input[1],
            bias=bias,
            inputs=shape[axes[0]],
            outputs=shape[axes[1]],
            kernel=tuple(shape[2:]),
        )
    return found
