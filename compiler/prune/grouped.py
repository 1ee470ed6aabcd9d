"""Depthwise and other grouped convolutions as stacks of small dense layers, one a group.

Their inputs are not chosen from, but where earlier removals have spoilt them the weights are fitted
anew, as those of dense layers are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import GraphProto

from compiler.prune.channels import Shape, attribute
from compiler.prune.dense import Array, Dense, Picked


@dataclass(frozen=True, eq=False)
class Grouped(Dense):
    """One grouped convolution: for each group ``rows @ matrix + bias``.

    Arrays have the groups in front of what a dense layer has. inputs: channels of one group, so
    1 when depthwise; outputs: of all groups together.
    """

    groups: int

    def matrix(self, weight: npt.NDArray[np.float32]) -> Array:
        """The weights as float64 ``[groups, inputs * taps, outputs / groups]``."""
        wide = np.asarray(weight, np.float64).reshape(self.groups, -1, self.inputs * self.taps)
        return np.ascontiguousarray(wide.swapaxes(1, 2))

    def weights(self, matrix: Array) -> npt.NDArray[np.float32]:
        """The inverse of ``matrix``."""
        narrow = np.ascontiguousarray(matrix.astype(np.float32).swapaxes(1, 2))
        return narrow.reshape(self.outputs, self.inputs, *self.kernel)

    def inputs_at(self, x: npt.NDArray[np.float32], shape: Shape, picked: Picked) -> Array:
        """Rows ``[groups, rows, inputs * taps]`` float64 of the input ``x`` ``[1, ...]``."""
        rows = self.windows_at(x, shape, picked)
        rows = rows.reshape(self.groups, self.inputs, len(picked), self.taps).swapaxes(1, 2)
        wide: Array = rows.reshape(self.groups, len(picked), -1).astype(np.float64)
        return wide

    def outputs_at(self, y: npt.NDArray[np.float32], picked: Picked) -> Array:
        """Rows ``[groups, rows, outputs / groups]`` float64 of a tensor like the output."""
        rows = y[0].reshape(self.groups, self.outputs // self.groups, -1)[:, :, picked]
        wide: Array = rows.swapaxes(1, 2).astype(np.float64)
        return wide


def list_grouped(graph: GraphProto) -> dict[str, Grouped]:
    """Every convolution of more than one group by node name, in the order of execution.

    Those without constant weights, or with a bias that is not one value a channel, are left out.
    """
    dims = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    found: dict[str, Grouped] = {}
    for node in graph.node:
        if node.op_type != "Conv" or node.domain not in ("", "ai.onnx"):
            continue
        shape, groups = dims.get(node.input[1]), int(attribute(node, "group", 1))
        if shape is None or groups == 1 or node.input[0] in dims:
            continue
        bias = node.input[2] if len(node.input) > 2 and node.input[2] else None
        if bias is not None and dims.get(bias) != shape[:1]:
            continue
        found[node.name] = Grouped(
            node=node,
            name=node.name,
            x=node.input[0],
            y=node.output[0],
            weight=node.input[1],
            bias=bias,
            inputs=shape[1],
            outputs=shape[0],
            kernel=tuple(shape[2:]),
            groups=groups,
        )
    return found
