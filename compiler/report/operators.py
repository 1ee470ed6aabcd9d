"""Every operator that the runtime executes, and in what arithmetic."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from onnx import GraphProto

from compiler.plan.structure import MOVING_OPS
from compiler.proof.audit import INT8_KERNELS
from compiler.report.section import Section

Arithmetic = Literal["int8", "float", "conversion", "moves values"]
_WORDS: dict[Arithmetic, str] = {
    "int8": "int8",
    "float": "float",
    "conversion": "between float and int8",
    "moves values": "moves values only",
}


def arithmetic_of(op: str) -> Arithmetic:
    """What an operator of onnxruntime's optimised graph computes in, by its name."""
    if op in INT8_KERNELS or op.startswith("QLinear"):
        return "int8"
    if op in ("QuantizeLinear", "DequantizeLinear"):
        return "conversion"
    return "moves values" if op in MOVING_OPS else "float"


def operators_section(graph: GraphProto) -> Section:
    """The operators of an optimised graph, float ones first."""
    counts = Counter(node.op_type for node in graph.node)
    order: list[Arithmetic] = ["float", "conversion", "int8", "moves values"]
    found = sorted(
        ((op, count, arithmetic_of(op)) for op, count in counts.items()),
        key=lambda one: (order.index(one[2]), one[0]),
    )
    in_float = [op for op, _, arithmetic in found if arithmetic == "float"]
    return Section(
        key="operators",
        title="Operators as executed",
        place="layers",
        note=(
            f"In float beside the layers: {', '.join(in_float)}."
            if in_float
            else "No operator computes in float."
        ),
        data=[
            {"op": op, "count": count, "arithmetic": arithmetic} for op, count, arithmetic in found
        ],
        columns=("operator", "count", "computes in"),
        rows=tuple((op, str(count), _WORDS[arithmetic]) for op, count, arithmetic in found),
    )
