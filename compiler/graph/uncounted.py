"""Work that no count of multiply-accumulates covers: it is named, so that a share cannot flatter.

How often a Loop runs, and which branch an If takes, stands in no file. Fused operators of runtimes
hold several multiplications each.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from onnx import AttributeProto, GraphProto, NodeProto

from compiler.graph.check import LAYER_OPS, all_nodes
from compiler.graph.layers import FLOAT_OPS

_MULTIPLYING = frozenset(
    {"DeformConv", "Attention", "DFT", "STFT", "LinearAttention", "QLinearConv", "QLinearMatMul"}
    | {"ConvInteger", "MatMulInteger", "LinearClassifier", "LinearRegressor", "SVMClassifier"}
    | {"SVMRegressor"}
)
"""Operators of ONNX that multiply matrices and have no count here."""

_LIGHT = frozenset(
    {"Gelu", "FastGelu", "QuickGelu", "BiasGelu", "Silu", "Inverse", "Trilu", "Rfft", "Irfft"}
    | {"LayerNormalization", "SimplifiedLayerNormalization", "SkipLayerNormalization"}
    | {"SkipSimplifiedLayerNormalization", "GroupNorm", "SkipGroupNorm", "BiasAdd", "BiasSplitGelu"}
    | {"QuantizeLinear", "DequantizeLinear", "QLinearAdd", "QLinearMul", "QLinearSigmoid"}
    | {"QLinearLeakyRelu", "QLinearSoftmax", "QLinearConcat", "QLinearAveragePool"}
    | {"QLinearGlobalAveragePool", "QLinearReduceMean", "QLinearWhere", "NhwcMaxPool"}
)
"""Operators of onnxruntime's own domain that multiply no matrices."""


@dataclass(frozen=True)
class Uncounted:
    """One operator whose multiplications nobody counted.

    holds: the layers inside a nested graph, by operator; empty for an operator of its own.
    """

    name: str
    op: str
    holds: Mapping[str, int]

    def sentence(self) -> str:
        """Such as ``Loop 'decode' (2 MatMul)``."""
        inside = ", ".join(f"{count} {op}" for op, count in self.holds.items())
        return f"{self.op} {self.name[:80]!r}" + (f" ({inside})" if inside else "")


def list_uncounted(graph: GraphProto, names: Mapping[str, str]) -> tuple[Uncounted, ...]:
    """What of ``graph`` multiplies and is no ``Layer``.

    Args:
        graph: with functions inlined.
        names: node name -> name in the source file.
    """
    found = []
    for node in graph.node:
        inside = Counter(
            inner.op_type
            for nested in _nested(node)
            for inner in all_nodes(nested)
            if inner.op_type in (*LAYER_OPS, *FLOAT_OPS) or _multiplies(inner)
        )
        if inside or _multiplies(node):
            name = names.get(node.name, node.name)
            found.append(Uncounted(name, node.op_type, dict(sorted(inside.items()))))
    return tuple(found)


def uncounted_words(many: Sequence[Uncounted]) -> str:
    """What was not counted, for people, or ""."""
    return shortened([one.sentence() for one in many])


def shortened(sentences: Sequence[str], shown: int = 4) -> str:
    """The first of them, and how many more there are."""
    more = f" and {len(sentences) - shown} more" if len(sentences) > shown else ""
    return ", ".join(sentences[:shown]) + more


def _multiplies(node: NodeProto) -> bool:
    if node.domain == "com.microsoft":
        return node.op_type not in _LIGHT
    return node.op_type in _MULTIPLYING


def _nested(node: NodeProto) -> Iterator[GraphProto]:
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
