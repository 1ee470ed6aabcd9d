"""Follow channels through a float ONNX graph: which index of which tensor is which channel.

Every dense layer (Conv, Gemm, MatMul with constant weights) makes new channels. What follows
either carries them along (Relu, pooling, depthwise convolutions, Flatten, ...), ties them to
others (a residual Add ties index i of both sides), or consumes them (the next dense layer).
Whatever an operator does that is not known here, its channels are frozen: they are never
removed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, NodeProto, helper, numpy_helper

from compiler.graph.floatgraph import constant_tensors

Shape = tuple[int, ...]
Ids = npt.NDArray[np.int64]

_UNARY = frozenset(
    (
        *("Relu", "LeakyRelu", "ThresholdedRelu", "Clip", "Sigmoid", "HardSigmoid", "HardSwish"),
        *("Tanh", "Elu", "Selu", "Celu", "Softplus", "Softsign", "Gelu", "Mish", "Erf", "Exp"),
        *("Abs", "Neg", "Floor", "Ceil", "Round", "Identity", "Dropout"),
    )
)
_BROADCAST = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Sum", "Mean", "PRelu"))
_SPATIAL = frozenset(("MaxPool", "AveragePool", "LpPool", "GlobalAveragePool", "GlobalMaxPool"))
_REDUCE = frozenset(("ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceL2"))
_RESHAPING = frozenset(("Reshape", "Flatten", "Squeeze", "Unsqueeze"))


@dataclass(frozen=True)
class Track:
    """Which channel each index along one axis of a tensor belongs to."""

    axis: int
    ids: Ids


@dataclass(frozen=True)
class Cut:
    """A constant whose axis shrinks when channels go.

    node: index into ``graph.node``; slot: which of its inputs.
    role: "makes" (a dense layer's output axis and its bias), "takes" (a dense layer's input
        axis) or "carries" (depthwise weights, batch norms, per-channel constants).
    """

    node: int
    slot: int
    axis: int
    ids: Ids
    role: str


@dataclass
class ChannelMap:
    """Channels of a graph.

    cuts: constants that shrink.
    splits: node index of each depthwise convolution -> ids of its input channels (``group``).
    specs: (node index of a Reshape, position in its target shape) -> ids along that axis.
    frozen: representative channel -> why it has to stay.
    """

    cuts: list[Cut] = field(default_factory=list)
    splits: dict[int, Ids] = field(default_factory=dict)
    specs: dict[tuple[int, int], Ids] = field(default_factory=dict)
    frozen: dict[int, str] = field(default_factory=dict)
    parent: list[int] = field(default_factory=list)

    def find(self, channel: int) -> int:
        """The representative of all channels tied to ``channel``."""
        while self.parent[channel] != channel:
            self.parent[channel] = self.parent[self.parent[channel]]
            channel = self.parent[channel]
        return channel

    def roots(self, ids: Ids) -> Ids:
        """``find`` for each of ``ids``."""
        return np.array([self.find(int(i)) for i in ids], np.int64)


def follow_channels(graph: GraphProto, shapes: Mapping[str, Shape]) -> ChannelMap:
    """Follow every channel from where it is made to where it is consumed.

    Args:
        graph: a checked float graph in the order of execution.
        shapes: of every tensor that nodes make and of the graph's inputs, for batch 1.

    Returns:
        The map; its ids are representatives already.
    """
    return _Follower(graph, shapes).run()


class _Follower:
    def __init__(self, graph: GraphProto, shapes: Mapping[str, Shape]) -> None:
        self.graph = graph
        self.shapes = shapes
        self.weights = {tensor.name: tensor for tensor in graph.initializer}
        self.constants = constant_tensors(graph)
        self.tracks: dict[str, Track] = {}
        self.map = ChannelMap()
        self.why_frozen: dict[int, str] = {}

    def run(self) -> ChannelMap:
        for index, node in enumerate(self.graph.node):
            if node.output[0] not in self.constants:
                self._visit(index, node)
        for node in self.graph.node:
            for name in _captured(node):
                self._freeze_tensor(name, f"a nested graph of {node.name} reads it")
        for value in self.graph.output:
            self._freeze_tensor(value.name, "it reaches the model's output")
        done = self.map
        for channel, reason in self.why_frozen.items():
            done.frozen.setdefault(done.find(channel), reason)
        done.cuts = [replace(cut, ids=done.roots(cut.ids)) for cut in done.cuts]
        done.splits = {node: done.roots(ids) for node, ids in done.splits.items()}
        done.specs = {key: done.roots(ids) for key, ids in done.specs.items()}
        return done

    def _visit(self, index: int, node: NodeProto) -> None:
        op, first = node.op_type, self.tracks.get(node.input[0]) if node.input else None
        made: Track | None = None
        known = node.domain in ("", "ai.onnx") and len([o for o in node.output if o]) == 1
        if known and op in ("Conv", "Gemm", "MatMul"):
            made = self._dense_or_depthwise(index, node, first)
        elif not any(name in self.tracks for name in node.input):
            return
        elif known and op in _BROADCAST:
            made = self._broadcast(index, node)
        elif known and op == "Concat":
            made = self._concat(node)
        elif known and first is not None and self._others_constant(node):
            made = self._carry(index, node, first)
        if made is None:
            for name in node.input:
                self._freeze_tensor(name, f"{op} {node.name} mixes or hides it")
        else:
            self.tracks[node.output[0]] = made

    def _carry(self, index: int, node: NodeProto, track: Track) -> Track | None:
        op, shape = node.op_type, self.shapes[node.input[0]]
        if op in _UNARY or (op in _SPATIAL and track.axis == 1):
            return track
        if op in ("BatchNormalization", "InstanceNormalization") and track.axis == 1:
            return track if self._cut_all(index, node, range(1, len(node.input)), track) else None
        if op == "Transpose":
            perm = list(attribute(node, "perm", list(range(len(shape)))[::-1]))
            return Track(perm.index(track.axis), track.ids)
        if op in ("Softmax", "LogSoftmax"):
            axis = int(attribute(node, "axis", -1)) % len(shape)
            return track if axis != track.axis else None
        if op in _REDUCE:
            return self._reduce(node, track)
        if op == "Pad" and len(node.input) < 4:
            pads = self._constant(node.input[1])
            rank = len(shape)
            if pads is not None and not pads[track.axis] and not pads[track.axis + rank]:
                return track
        if op == "Resize" and len(node.input) == 3:
            return track if self.shapes[node.output[0]][track.axis] == len(track.ids) else None
        if op in _RESHAPING:
            return self._reshape(index, node, track)
        return None

    def _dense_or_depthwise(self, index: int, node: NodeProto, first: Track | None) -> Track | None:
        weight = self.weights.get(node.input[1])
        if weight is None:
            return None
        groups = int(attribute(node, "group", 1)) if node.op_type == "Conv" else 1
        if groups > 1:
            if first is None or first.axis != 1 or groups != len(first.ids):
                return None
            ids = np.repeat(first.ids, weight.dims[0] // groups)
            self.map.splits[index] = first.ids
            out = Track(1, ids)
            return out if self._cut_all(index, node, range(1, len(node.input)), out) else None
        axes = dense_axes(node, list(weight.dims))
        if axes is None:
            return None
        takes, makes = axes
        rank = len(self.shapes[node.output[0]])
        out = Track(1 if node.op_type == "Conv" else rank - 1, self._fresh(weight.dims[makes]))
        if len(node.input) > 2 and node.input[2]:
            bias = self.weights.get(node.input[2])
            if bias is None or list(bias.dims) != [len(out.ids)]:
                return None
            self.map.cuts.append(Cut(index, 2, 0, out.ids, "makes"))
        self.map.cuts.append(Cut(index, 1, makes, out.ids, "makes"))
        if first is not None:
            where = 1 if node.op_type == "Conv" else len(self.shapes[node.input[0]]) - 1
            if first.axis == where and len(first.ids) == weight.dims[takes]:
                self.map.cuts.append(Cut(index, 1, takes, first.ids, "takes"))
            else:
                self._freeze(first.ids, f"{node.op_type} {node.name} mixes other axes")
        return out

    def _broadcast(self, index: int, node: NodeProto) -> Track | None:
        rank = len(self.shapes[node.output[0]])
        tracked: list[Track] = []
        for name in node.input:
            track = self.tracks.get(name)
            if track is not None:
                tracked.append(Track(track.axis + rank - len(self._shape(name)), track.ids))
        out = max(tracked, key=lambda track: len(track.ids))
        if any(track.axis != out.axis for track in tracked):
            return None
        for track in tracked:
            if len(track.ids) != len(out.ids):
                self._freeze(track.ids, f"{node.op_type} {node.name} spreads it over channels")
                continue
            for a, b in zip(track.ids, out.ids, strict=True):
                self.map.parent[self.map.find(int(a))] = self.map.find(int(b))
        for slot, name in enumerate(node.input):
            if name in self.tracks:
                continue
            shape = self._shape(name)
            axis = out.axis - (rank - len(shape))
            if axis < 0 or shape[axis] == 1:
                continue
            if name not in self.weights:
                return None
            self.map.cuts.append(Cut(index, slot, axis, out.ids, "carries"))
        return out

    def _concat(self, node: NodeProto) -> Track | None:
        rank = len(self.shapes[node.output[0]])
        axis = int(attribute(node, "axis", 1)) % rank
        tracked = [self.tracks[name] for name in node.input if name in self.tracks]
        if any(track.axis != axis for track in tracked):
            return None
        parts: list[Ids] = []
        for name in node.input:
            if name in self.tracks:
                parts.append(self.tracks[name].ids)
            else:
                parts.append(self._fresh(self._shape(name)[axis]))
                self._freeze(parts[-1], "it is not made by a dense layer")
        return Track(axis, np.concatenate(parts))

    def _reduce(self, node: NodeProto, track: Track) -> Track | None:
        rank = len(self.shapes[node.input[0]])
        given = attribute(node, "axes", None)
        if given is None and len(node.input) > 1 and node.input[1]:
            given = self._constant(node.input[1])
        if given is None:
            return None
        axes = {int(axis) % rank for axis in given}
        if track.axis in axes:
            return None
        lost = 0 if attribute(node, "keepdims", 1) else len([a for a in axes if a < track.axis])
        return Track(track.axis - lost, track.ids)

    def _reshape(self, index: int, node: NodeProto, track: Track) -> Track | None:
        before, after = self.shapes[node.input[0]], self.shapes[node.output[0]]
        out = reshape_track(before, after, track)
        if out is None or node.op_type != "Reshape":
            return out
        spec = self._constant(node.input[1])
        if spec is None:
            return None
        if spec[out.axis] > 0:
            self.map.specs[index, out.axis] = out.ids
        return out

    def _cut_all(self, index: int, node: NodeProto, slots: range, track: Track) -> bool:
        used = [slot for slot in slots if node.input[slot]]
        if any(node.input[slot] not in self.weights for slot in used):
            return False
        self.map.cuts += [Cut(index, slot, 0, track.ids, "carries") for slot in used]
        return True

    def _fresh(self, count: int) -> Ids:
        start = len(self.map.parent)
        self.map.parent += range(start, start + count)
        return np.arange(start, start + count, dtype=np.int64)

    def _freeze(self, ids: Ids, reason: str) -> None:
        for channel in ids:
            self.why_frozen.setdefault(int(channel), reason)

    def _freeze_tensor(self, name: str, reason: str) -> None:
        if name in self.tracks:
            self._freeze(self.tracks[name].ids, reason)

    def _shape(self, name: str) -> Shape:
        tensor = self.weights.get(name)
        return self.shapes[name] if tensor is None else tuple(tensor.dims)

    def _constant(self, name: str) -> list[int] | None:
        tensor = self.weights.get(name)
        return None if tensor is None else [int(v) for v in numpy_helper.to_array(tensor).ravel()]

    def _others_constant(self, node: NodeProto) -> bool:
        return all(not name or name in self.constants for name in node.input[1:])


def attribute(node: NodeProto, name: str, default: Any) -> Any:
    """The value of ``node``'s attribute ``name``."""
    for entry in node.attribute:
        if entry.name == name:
            return helper.get_attribute_value(entry)
    return default


def dense_axes(node: NodeProto, dims: Sequence[int]) -> tuple[int, int] | None:
    """(input axis, output axis) of the weights of a dense layer; None when it is not one."""
    if node.op_type == "Conv":
        return (1, 0) if attribute(node, "group", 1) == 1 else None
    if len(dims) != 2:
        return None
    if node.op_type == "Gemm":
        plain = attribute(node, "alpha", 1.0) == 1.0 and attribute(node, "beta", 1.0) == 1.0
        if attribute(node, "transA", 0) or not plain:
            return None
        return (1, 0) if attribute(node, "transB", 0) else (0, 1)
    return (0, 1)


def reshape_track(before: Shape, after: Shape, track: Track) -> Track | None:
    """Where a tracked axis lies after a reshape that keeps it whole or merges it with others.

    A reshape that cuts the axis into several, or merges it with the batch, gives None.
    """
    for axis in range(1, len(after)):
        for i in range(1, track.axis + 1):
            if math.prod(before[:i]) != math.prod(after[:axis]):
                continue
            for j in range(track.axis + 1, len(before) + 1):
                if math.prod(before[i:j]) == after[axis]:
                    inner = math.prod(before[track.axis + 1 : j])
                    outer = math.prod(before[i : track.axis])
                    return Track(axis, np.tile(np.repeat(track.ids, inner), outer))
    return None


def _captured(node: NodeProto) -> Iterator[str]:
    for entry in node.attribute:
        if entry.type == AttributeProto.GRAPH:
            for inner in entry.g.node:
                yield from inner.input
                yield from _captured(inner)
            yield from (value.name for value in entry.g.output)
