"""What really runs in int8: load the file in the runtime and look at the graph that it made.

"Quantised" does not mean that int8 kernels run: the runtime keeps a layer in float when it has
no kernel for the pattern around it. So the session is opened with the very flags that the device
uses, its optimised graph is dumped, and each int8 kernel in it is traced to a layer of the source.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import onnx
import onnxruntime as ort
from onnx import GraphProto

from compiler.errors import CompileError
from compiler.graph.check import LAYER_OPS
from compiler.graph.floatgraph import first_line
from compiler.graph.layers import Layer
from compiler.graph.uncounted import Uncounted, uncounted_words
from compiler.plan.plan import Plan
from compiler.proof.gate import Gate
from edge_runtime.onnx_session import session_options

INT8_KERNELS = frozenset(
    {
        "QLinearConv",
        "QGemm",
        "QLinearMatMul",
        "ConvInteger",
        "MatMulInteger",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
    }
)
"""Kernels of onnxruntime that multiply int8 by int8."""

_FLOAT_KERNELS = frozenset({*LAYER_OPS, "FusedConv", "FusedGemm", "FusedMatMul", "NhwcFusedConv"})
_SHOWN_MAX = 4
LAYER_NAME = re.compile(rf"(?:{'|'.join(LAYER_OPS)})_\d+")
"""The name that ``floatgraph`` gives a layer; later stages put something behind it."""


@dataclass(frozen=True)
class Audit:
    """Which layers of the source were seen running in int8.

    layers: of the source, with those that no scheme runs in int8.
    expected: every Conv, Gemm and MatMul among them.
    seen: those of them that an int8 kernel runs.
    macs_share: their share of the source's multiply-accumulates, 0..1.
    uncounted: what else of the source multiplies; where there is any, the share tells of a part.
    """

    layers: tuple[Layer, ...]
    in_int8: frozenset[str]
    kernels: dict[str, int]
    uncounted: tuple[Uncounted, ...] = ()

    @property
    def expected(self) -> int:
        """Every Conv, Gemm and MatMul of the source."""
        return sum(layer.op in LAYER_OPS for layer in self.layers)

    @property
    def seen(self) -> int:
        """Those of them that an int8 kernel was seen to run."""
        return len(self.in_int8)

    @property
    def macs_share(self) -> float:
        """The int8 layers' share of the multiply-accumulates, 0..1."""
        total = sum(layer.macs for layer in self.layers)
        return sum(layer.macs for layer in self.layers if layer.name in self.in_int8) / max(
            total, 1
        )

    @property
    def uncounted_words(self) -> str:
        """What was not counted, for people, or ""."""
        return uncounted_words(self.uncounted)

    @property
    def left_float(self) -> list[Layer]:
        """Layers that do not run in int8, the largest first."""
        rest = [layer for layer in self.layers if layer.name not in self.in_int8]
        return sorted(rest, key=lambda layer: -layer.macs)

    def broken(self, plan: Plan) -> list[Layer]:
        """Layers that the plan says run in int8 and that the runtime runs in float."""
        promised = {match.group() for node in plan.layers if (match := LAYER_NAME.match(node))}
        return [layer for layer in self.left_float if layer.name in promised]


def audited(gate: Gate, found: Audit, plan: Plan) -> Gate:
    """The gate's result, failed where a layer that the plan runs in int8 was seen in float.

    Its accuracy may have held; but it is not what was planned, and on a device it would be slow.
    """
    broken = found.broken(plan)
    if not broken:
        return gate
    total = sum(layer.macs for layer in found.layers)
    shown = ", ".join(
        f"{layer.op} {layer.source_name[:80]!r} ({layer.macs:,} MACs, {layer.macs / total:.2%})"
        for layer in broken[:_SHOWN_MAX]
    )
    more = len(broken) - _SHOWN_MAX
    reason = (
        f"the audit found {len(broken)} of {found.expected} layers in float that the plan runs in"
        f" int8: {shown}" + (f" and {more} more" if more > 0 else "")
    )
    return replace(gate, verdict="fail", reason=reason)


def audit(model: bytes, scheme: str, layers: list[Layer]) -> Audit:
    """Load ``model`` as a device of ``scheme`` does and count its int8 kernels.

    Raises:
        CompileError: the runtime refuses the file.
    """
    graph = optimised_graph(model, scheme)
    kernels: dict[str, int] = {}
    for node in graph.node:
        if node.op_type in INT8_KERNELS or node.op_type in _FLOAT_KERNELS:
            kernels[node.op_type] = kernels.get(node.op_type, 0) + 1
    return Audit(
        layers=tuple(layers),
        in_int8=frozenset(_trace(graph, layers)),
        kernels=dict(sorted(kernels.items())),
    )


def optimised_graph(model: bytes, scheme: str) -> GraphProto:
    """The graph that the runtime executes for ``model``, on this machine, with the device's flags.

    Raises:
        CompileError: the runtime refuses the file.
    """
    with tempfile.TemporaryDirectory(prefix="edge-compile-") as scratch:
        path = Path(scratch) / "optimised.onnx"
        options = session_options(scheme)
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        # onnxruntime raises a family of types without a common base, RuntimeError among them.
        except Exception as error:
            raise CompileError(
                f"onnxruntime {ort.__version__} refuses the int8 model: {first_line(error)}"
            ) from error
        return onnx.load(path).graph


def _trace(graph: GraphProto, layers: list[Layer]) -> set[str]:
    """Names of the layers that an int8 kernel of ``graph`` runs.

    The runtime keeps a layer's name, or puts something behind it. Kernels whose name was lost
    are given, in the order of execution, to the layers that no kernel at all was found for, and
    only where their numbers are equal.
    """
    known = {layer.name for layer in layers}
    int8: set[str] = set()
    in_float: set[str] = set()
    nameless: list[bool] = []
    for node in graph.node:
        is_int8 = node.op_type in INT8_KERNELS
        if not is_int8 and node.op_type not in _FLOAT_KERNELS:
            continue
        found = LAYER_NAME.match(node.name)
        if found and found.group() in known:
            (int8 if is_int8 else in_float).add(found.group())
        else:
            nameless.append(is_int8)
    int8 -= in_float
    lost = [
        layer.name
        for layer in layers
        if layer.op in LAYER_OPS and layer.name not in int8 | in_float
    ]
    if len(lost) == len(nameless):
        int8 |= {name for name, is_int8 in zip(lost, nameless, strict=True) if is_int8}
    return int8
