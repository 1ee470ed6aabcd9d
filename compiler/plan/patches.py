"""What a layer multiplies its weights by, as rows, and its weights as matrices, group by group."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, ModelProto, NodeProto

from compiler.plan.structure import Site, initializer

Floats = npt.NDArray[np.float64]
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Patches:
    """One layer with a constant weight.

    groups: independent parts of it: 1, but for grouped and depthwise convolutions.
    columns: inputs of one output, kernel elements included.
    """

    node: NodeProto
    site: Site
    shape: Shape
    groups: int

    @property
    def columns(self) -> int:
        """Inputs of one output channel."""
        if self.node.op_type == "Conv":
            return math.prod(self.shape[1:])
        return self.shape[1 - self.site.axis]

    def matrix(self, weight: npt.NDArray[np.generic]) -> Floats:
        """A weight as float64 ``[groups, outputs of the group, columns]``."""
        wide = np.asarray(weight, np.float64)
        if self.site.axis == 1:
            wide = wide.T
        return np.ascontiguousarray(wide.reshape(self.groups, -1, self.columns))

    def weight(self, matrix: Floats) -> Floats:
        """The inverse of ``matrix``."""
        if self.site.axis == 1:
            return np.ascontiguousarray(matrix.reshape(-1, self.columns).T)
        return matrix.reshape(self.shape)

    def rows(self, x: npt.NDArray[np.generic], limit: int) -> Floats:
        """Inputs ``[n, ...]`` of the layer as ``[groups, rows, columns]``, padding as 0.

        Of each sample at most about ``limit`` positions, evenly spaced, from another start in
        each sample so that no column of pixels is favoured.
        """
        if self.node.op_type != "Conv":
            flat = x.reshape(len(x), -1, self.columns)
            return np.concatenate(
                [one[_spaced(len(one), limit, at)] for at, one in enumerate(flat)]
            )[None].astype(np.float64)
        view = self._windows(x)
        out = view.shape[2 : 2 + (x.ndim - 2)]
        found = []
        for at, one in enumerate(view):
            where = np.unravel_index(_spaced(math.prod(out), limit, at), out)
            every: tuple[Any, ...] = (slice(None), *where)
            picked = one[every]  # [channels, rows, *kernel]
            parts = picked.reshape(self.groups, -1, *picked.shape[1:])
            found.append(np.moveaxis(parts, 2, 1).reshape(self.groups, len(where[0]), -1))
        return np.concatenate(found, axis=1).astype(np.float64)

    def _windows(self, x: npt.NDArray[np.generic]) -> npt.NDArray[np.generic]:
        """A view ``[n, channels, *out, *kernel]`` of the padded input."""
        kernel, size = self.shape[2:], x.shape[2:]
        rank = len(kernel)
        strides = _ints(self.node, "strides", [1] * rank)
        dilations = _ints(self.node, "dilations", [1] * rank)
        reach = [d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True)]
        auto = next((a.s for a in self.node.attribute if a.name == "auto_pad"), b"NOTSET")
        pads = _ints(self.node, "pads", [0] * (2 * rank))
        if auto == b"VALID":
            pads = [0] * (2 * rank)
        elif auto in (b"SAME_UPPER", b"SAME_LOWER"):
            whole = [
                max((-(-n // s) - 1) * s + r - n, 0)
                for n, s, r in zip(size, strides, reach, strict=True)
            ]
            less, more = [p // 2 for p in whole], [p - p // 2 for p in whole]
            pads = less + more if auto == b"SAME_UPPER" else more + less
        edges = [(0, 0), (0, 0), *zip(pads[:rank], pads[rank:], strict=True)]
        view = np.lib.stride_tricks.sliding_window_view(
            np.pad(x, edges), reach, tuple(range(2, 2 + rank))
        )
        steps = [slice(None, None, stride) for stride in strides]
        taps = [slice(None, None, dilation) for dilation in dilations]
        every: tuple[Any, ...] = (slice(None), slice(None), *steps, *taps)
        found: npt.NDArray[np.generic] = view[every]
        return found


def patches_of(model: ModelProto, site: Site) -> Patches:
    """How ``site``, which has a weight, reads its input."""
    assert site.weight is not None
    node = next(node for node in model.graph.node if node.name == site.node)
    shape = initializer(model, site.weight).shape
    groups = _ints(node, "group", [1])[0] if node.op_type == "Conv" else 1
    return Patches(node, site, shape, groups)


def _spaced(count: int, limit: int, start: int) -> npt.NDArray[np.int64]:
    if count <= limit:
        return np.arange(count)
    step = count // limit
    return np.arange(start % step, count, step)[:limit]


def _ints(node: NodeProto, name: str, default: list[int]) -> list[int]:
    for found in node.attribute:
        if found.name == name:
            return list(found.ints) if found.type == AttributeProto.INTS else [int(found.i)]
    return default
