"""Surgery on the graph: give dense layers weights of their own, and cut removed channels out."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
import onnx
from onnx import GraphProto, ModelProto, numpy_helper

from compiler.prune.channels import dense_axes
from compiler.prune.groups import Grouping


def own_weights(model: ModelProto) -> ModelProto:
    """A copy in which no layer shares weights, and each Conv and Gemm has a bias ``[O]``.

    It computes what ``model`` computes. A bias that is not one value a channel stays as it is.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph = copy.graph
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    names = _Names(graph)
    for node in graph.node:
        if node.op_type not in ("Conv", "Gemm", "MatMul") or node.input[1] not in weights:
            continue
        weight = weights[node.input[1]]
        axes = dense_axes(node, weight.shape) if node.op_type == "Gemm" else (1, 0)
        for slot in range(1, len(node.input)):
            name = node.input[slot]
            if name in weights and names.uses[name] > 1:
                node.input[slot] = names.add(name, weights[name])
        if axes is None or node.op_type == "MatMul":
            continue
        outputs = weight.shape[axes[1]]
        bias: npt.NDArray[np.float32] = np.zeros(1, np.float32)
        if len(node.input) > 2 and node.input[2]:
            given = _initializers(graph).get(node.input[2])
            if given is None:
                continue
            bias = numpy_helper.to_array(given)
            if bias.shape == (outputs,) or bias.size not in (1, outputs):
                continue
            if bias.size == outputs and bias.shape[-1] != outputs:
                continue
        full = np.broadcast_to(bias.reshape(-1), (outputs,))
        name = names.add(f"{node.input[1]}_bias", full)
        del node.input[2:]
        node.input.append(name)
    _drop_unused(graph)
    return copy


def cut_channels(
    model: ModelProto, grouping: Grouping, removed: npt.NDArray[np.bool_]
) -> ModelProto:
    """A copy of ``model`` without the removed channels.

    Args:
        model: the graph that ``grouping`` was found in; its weights may have changed.
        removed: bool ``[channels]`` by channel id.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    graph, found = copy.graph, grouping.channels
    names = _Names(graph)
    tensors = _initializers(graph)
    smaller: dict[tuple[int, int], npt.NDArray[np.generic]] = {}
    for cut in found.cuts:
        keep = ~removed[cut.ids]
        if not keep.all():
            key = cut.node, cut.slot
            if key not in smaller:
                smaller[key] = numpy_helper.to_array(tensors[graph.node[cut.node].input[cut.slot]])
            smaller[key] = np.compress(keep, smaller[key], axis=cut.axis)
    for (index, position), ids in found.specs.items():
        if removed[ids].any():
            key = index, 1
            if key not in smaller:
                smaller[key] = numpy_helper.to_array(tensors[graph.node[index].input[1]]).copy()
            smaller[key].reshape(-1)[position] = np.count_nonzero(~removed[ids])
    for (index, slot), values in smaller.items():
        node = graph.node[index]
        name = node.input[slot]
        if names.uses[name] == 1:
            tensors[name].CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        else:
            names.uses[name] -= 1
            node.input[slot] = names.add(name, values)
    for index, ids in found.splits.items():
        for entry in graph.node[index].attribute:
            if entry.name == "group":
                entry.i = int(np.count_nonzero(~removed[ids]))
    _drop_unused(graph)
    # Shapes recorded for the old widths would contradict the new ones.
    del graph.value_info[:]
    return onnx.shape_inference.infer_shapes(copy, data_prop=True)


class _Names:
    """Adds initializers under names that are free."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.uses = Counter(name for node in graph.node for name in node.input)
        self.taken = set(self.uses) | {output for node in graph.node for output in node.output}
        self.taken |= {value.name for value in graph.output} | set(_initializers(graph))

    def add(self, name: str, values: npt.NDArray[np.generic]) -> str:
        free, number = name, 0
        while free in self.taken:
            number += 1
            free = f"{name}_{number}"
        self.taken.add(free)
        self.uses[free] += 1
        self.graph.initializer.append(numpy_helper.from_array(np.array(values), free))
        return free


def _initializers(graph: GraphProto) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in graph.initializer}


def _drop_unused(graph: GraphProto) -> None:
    used = {name for node in graph.node for name in node.input}
    used |= {value.name for value in graph.output}
    nested = any(entry.HasField("g") for node in graph.node for entry in node.attribute)
    if nested:
        return
    kept = [tensor for tensor in graph.initializer if tensor.name in used]
    if len(kept) < len(graph.initializer):
        copies = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
        del graph.initializer[:]
        graph.initializer.extend(copies)
