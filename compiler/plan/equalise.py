"""Cross-layer equalisation: give the channels of one tensor ranges that one grid can serve.

A layer's output channel may be multiplied by ``s`` and the next layer's weights for it divided by
``s``: a Relu between them commutes with that, so the float function stays (M. Nagel et al.,
"Data-Free Quantization through Weight Equalization and Bias Correction", 2019). Weights have a
scale a channel, activations one a tensor, so it is the activations that gain.

The factors depend only on what such a rescaling leaves alone: the range ``r`` that a channel
takes times the weight that reads it. So two models that differ by a rescaling become one.
With ``q = max_o (r |w_o| / max_c r |w_o|)`` in 0..1, the importance of a channel to the outputs
``o`` that read it, the channel's range becomes ``R q ** balance``: with ``balance`` 0 all ranges
are equal, which is best for the activations; with 1 unimportant channels stay small, which is best
for the next layer's weights.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import ModelProto, NodeProto, numpy_helper

from compiler.plan.plan import Weight
from compiler.plan.structure import Site, Structure, attribute, initializer

Array = npt.NDArray[np.float32]
Ranges = npt.NDArray[np.float64]

_COMMUTING = ("Relu", "LeakyRelu", "MaxPool", "AveragePool", "GlobalAveragePool", "Identity")
"""Operators that work channel by channel and commute with a positive factor."""

_FLATTENING = ("Flatten", "Reshape", "Squeeze")

FACTOR_MAX = 1e4
"""A factor beyond this, or its inverse, is no equalisation but another channel."""

FACTOR_NOISE = 1.05
"""Factors all between its inverse and this come of rounding and fine-tuning: none was there."""

_DEAD_SHARE = 0.5
"""A channel that a Relu kept near 0 for all samples counts with this share of what it cut away:
other samples will drive it, and one that is stretched to fill a grid has no room for them."""


@dataclass(frozen=True)
class Pair:
    """Two layers whose common channels can be rescaled.

    made: the tensor that ``first`` makes, channels along axis 1.
    positive: a Relu cuts it.
    """

    first: Site
    second: Site
    made: str
    positive: bool


def find_pairs(model: ModelProto, structure: Structure) -> list[Pair]:
    """Every pair of layers with nothing but commuting operators, and no branch, between them."""
    graph = model.graph
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    outputs = {value.name for value in graph.output}
    weights: dict[str, int] = {}
    for site in structure.sites.values():
        for owned in (site.weight, site.bias):
            if owned is not None:
                weights[owned] = len(users.get(owned, []))
    found: list[Pair] = []
    for site in structure.sites.values():
        # What a MatMul makes has its channels at the end, wherever that is.
        if site.weight is None or site.op == "MatMul" or weights[site.weight] != 1:
            continue
        if site.bias is not None and weights[site.bias] != 1:
            continue
        tensor, positive = site.made, False
        while tensor not in outputs and len(users.get(tensor, [])) == 1:
            (node,) = users[tensor]
            if node.op_type in _COMMUTING or node.op_type in _FLATTENING:
                positive |= node.op_type == "Relu"
                tensor = node.output[0]
                continue
            second = structure.sites.get(node.name)
            if second is not None and second.weight is not None and second.inputs == (tensor,):
                made = initializer(model, site.weight).shape[site.axis]
                if weights[second.weight] == 1 and _width(model, second) == made:
                    found.append(Pair(site, second, site.made, positive))
            break
    return found


def ranges_of(pair: Pair, low: Ranges, high: Ranges) -> Ranges:
    """The range ``[channels]`` of each channel behind the pair's Relu, from its extremes."""
    if pair.positive:
        return np.maximum(high, _DEAD_SHARE * -low)
    return np.maximum(np.abs(low), np.abs(high))


def disparity(pair: Pair, ranges: Ranges) -> float:
    """How many times less the range of a lowly channel (10th percentile) is than the greatest."""
    alive = ranges[ranges > 0]
    return float(alive.max() / np.quantile(alive, 0.1)) if alive.size else 1.0


def equalise(
    model: ModelProto, pairs: Mapping[int, Ranges], all_pairs: list[Pair], balance: float
) -> ModelProto:
    """The same float function with the channels of every pair rescaled.

    Args:
        model: left as it is.
        pairs: place in ``all_pairs`` -> ranges ``[channels]`` from ``ranges_of``.
        all_pairs: from ``find_pairs``.
        balance: 0 for the activations' good .. 1 for the next weights'.
    """
    factors: list[tuple[Pair, Ranges]] = []
    for place, ranges in pairs.items():
        pair = all_pairs[place]
        assert pair.second.weight is not None
        alive = ranges > 0
        if not alive.any():
            continue
        reading = _largest(model, pair.second, initializer(model, pair.second.weight))
        share = ranges.reshape(reading.shape[0], -1, 1) * reading
        most = share.max(axis=1, keepdims=True)
        importance = (share / np.where(most > 0, most, 1)).max(axis=2).reshape(-1)
        wanted = ranges[alive].max() * np.maximum(importance, 1e-4) ** balance
        factors.append((pair, np.where(alive, wanted / np.where(alive, ranges, 1), 1.0)))
    return _rescaled(model, factors)


def equalise_as(model: ModelProto, pairs: list[Pair], before: Mapping[str, Weight]) -> ModelProto:
    """The same float function, rescaled so that each first layer comes nearest to ``before``.

    By least squares, channel by channel; so what an earlier plan equalised is found again.

    Args:
        model: left as it is.
        pairs: from ``find_pairs``, in the order of execution.
        before: int8 weights by node.
    """
    for pair in pairs:
        assert pair.first.weight is not None
        weight = initializer(model, pair.first.weight)
        held = before.get(pair.first.node)
        if held is None or held.values.shape != weight.shape:
            continue
        channels = weight.shape[pair.first.axis]
        now = np.moveaxis(weight.astype(np.float64), pair.first.axis, 0).reshape(channels, -1)
        was = np.moveaxis(held.dequantised(), held.axis, 0).reshape(channels, -1)
        factor = (now * was).sum(axis=1) / np.maximum((now * now).sum(axis=1), 1e-30)
        if ((factor > 1 / FACTOR_NOISE) & (factor < FACTOR_NOISE)).all():
            continue
        sound = (factor > 1 / FACTOR_MAX) & (factor < FACTOR_MAX)
        model = _rescaled(model, [(pair, np.where(sound, factor, 1.0))])
    return model


def _rescaled(model: ModelProto, factors: list[tuple[Pair, Ranges]]) -> ModelProto:
    """Outputs of each pair's first layer times the factors, and the second's weights by them."""
    values: dict[str, Array] = {}

    def of(name: str) -> Array:
        if name not in values:
            values[name] = initializer(model, name).copy()
        return values[name]

    for pair, factor in factors:
        first, second = pair.first, pair.second
        assert first.weight is not None
        assert second.weight is not None
        shape = [1] * of(first.weight).ndim
        shape[first.axis] = -1
        values[first.weight] = (of(first.weight) * factor.reshape(shape)).astype(np.float32)
        if first.bias is not None:
            bias = of(first.bias)
            values[first.bias] = (bias.reshape(-1) * factor).reshape(bias.shape).astype(np.float32)
        values[second.weight] = _divide(model, second, of(second.weight), factor)
    return with_values(model, values)


def with_values(model: ModelProto, values: Mapping[str, Array]) -> ModelProto:
    """A copy of ``model`` with other values in some initializers."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        if tensor.name in values:
            tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return copy


def _largest(model: ModelProto, site: Site, weight: Array) -> Array:
    """Largest weights as ``[group, input channel of the group, output channel of the group]``."""
    if site.op != "Conv":
        return np.abs(weight if site.axis == 1 else weight.T)[None]
    groups = _groups(model, site)
    parts = np.abs(weight).reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)
    return np.swapaxes(parts.max(axis=3), 1, 2)


def _divide(model: ModelProto, site: Site, weight: Array, factor: Ranges) -> Array:
    if site.op != "Conv":
        shape = (-1, 1) if site.axis == 1 else (1, -1)
        return np.asarray(weight / factor.reshape(shape), np.float32)
    groups = _groups(model, site)
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:]).astype(np.float64)
    per_group = factor.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return np.asarray((parts / per_group).reshape(weight.shape), np.float32)


def _groups(model: ModelProto, site: Site) -> int:
    return int(next(attribute(n, "group", 1) for n in model.graph.node if n.name == site.node))


def _width(model: ModelProto, site: Site) -> int:
    """Input channels of a layer."""
    assert site.weight is not None
    shape = initializer(model, site.weight).shape
    if site.op == "Conv":
        return int(shape[1]) * _groups(model, site)
    return int(shape[0] if site.axis == 1 else shape[1])


def channel_extremes(made: Iterator[Array]) -> tuple[Ranges, Ranges]:
    """Least and greatest values ``[channels]`` over tensors ``[n, channels, ...]``."""
    low: Ranges | None = None
    high: Ranges | None = None
    for values in made:
        flat = np.moveaxis(values, 1, 0).reshape(values.shape[1], -1).astype(np.float64)
        least, most = flat.min(axis=1), flat.max(axis=1)
        low = least if low is None else np.minimum(low, least)
        high = most if high is None else np.maximum(high, most)
    assert low is not None
    assert high is not None
    return low, high
