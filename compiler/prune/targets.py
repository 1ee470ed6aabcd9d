"""What a layer's output should be: the float model's values, where anyone can tell a difference.

Behind a residual sum it is the sum that should agree, so a layer also makes good what the other
branch has lost. Behind a Relu or Clip, values beyond the bound all count the same: where the
float model is beyond it and the layer is, too, there is no error to mend (the asymmetric form of
Zhang et al., Accelerating very deep convolutional networks, 2015, solved by majorisation).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from onnx import GraphProto, NodeProto, numpy_helper

from compiler.prune.channels import Shape
from compiler.prune.dense import Array, Dense


@dataclass(frozen=True)
class Target:
    """Where one layer is compared with the float model.

    site: the tensor that should agree. other: what is added to the layer's output to get there.
    low, high: values beyond these are alike.
    """

    site: str
    other: str | None
    low: float
    high: float

    @property
    def is_bounded(self) -> bool:
        """Whether the target depends on what the layer gives."""
        return self.low > -np.inf or self.high < np.inf

    def ease(self, wanted: Array, given: Array) -> Array:
        """``wanted``, but ``given`` where both lie beyond the same bound; any equal shapes."""
        eased = np.where(wanted <= self.low, np.minimum(given, self.low), wanted)
        return np.where(wanted >= self.high, np.maximum(given, self.high), eased)


def find_target(graph: GraphProto, layer: Dense, shapes: Mapping[str, Shape]) -> Target:
    """Where to compare ``layer``.

    A sum that repeats the layer's output over more positions than it has is no such place.

    Args:
        shapes: of the tensors; see ``run_shapes``.
    """
    constants = {tensor.name for tensor in graph.initializer}
    ends = {value.name for value in graph.output}
    site, other = layer.y, None
    readers = _readers(graph, site)
    if len(readers) == 1 and readers[0].op_type == "Add" and site not in ends:
        rest = [name for name in readers[0].input if name != site]
        total = readers[0].output[0]
        if len(rest) == 1 and rest[0] not in constants and shapes[total] == shapes[site]:
            site, other = total, rest[0]
            readers = _readers(graph, site)
    bounds = {_bounds(graph, node) for node in readers}
    if len(bounds) != 1 or site in ends:
        return Target(site, other, -np.inf, np.inf)
    return Target(site, other, *bounds.pop())


def _readers(graph: GraphProto, name: str) -> list[NodeProto]:
    return [node for node in graph.node if name in node.input]


def _bounds(graph: GraphProto, node: NodeProto) -> tuple[float, float]:
    if node.op_type == "Relu":
        return 0.0, np.inf
    if node.op_type != "Clip":
        return -np.inf, np.inf
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    found = [-np.inf, np.inf]
    for slot in (1, 2):
        name = node.input[slot] if len(node.input) > slot else ""
        if name in tensors:
            found[slot - 1] = float(numpy_helper.to_array(tensors[name]))
        elif name:
            found[slot - 1] = -np.inf if slot == 1 else np.inf
    return found[0], found[1]
