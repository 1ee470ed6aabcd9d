"""What of a .tflite file runs in int8: an operator does whose tensors all are integers.

LiteRT has one kernel an operator and element type and converts nothing by itself, so the file says
what runs; that it loads and answers is seen by running it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.graph.check import LAYER_OPS
from compiler.graph.layers import Layer
from compiler.proof.audit import LAYER_NAME, Audit
from compiler.tflite.read import ABSENT, TfliteModel, TfliteOperator, read_tflite

LAYER_KINDS = frozenset(
    {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED", "BATCH_MATMUL", "TRANSPOSE_CONV"}
)
"""Operators that multiply and accumulate."""

_BIAS = "_bias"
_BIAS_PLACE = 2
_BRIDGES = ("QUANTIZE", "DEQUANTIZE")
_INTEGERS = ("INT8", "INT32")


@dataclass(frozen=True)
class TfliteLayer:
    """One operator that multiplies.

    name: of the plan's layer, or "" where the file does not tell.
    weight: index of the tensor that it multiplies by.
    int8: whether everything that it reads and writes is an integer.
    """

    name: str
    operator: TfliteOperator
    weight: int
    int8: bool


def layers_of(model: TfliteModel) -> list[TfliteLayer]:
    """Every operator that multiplies, in the order of execution.

    The emitter calls the bias of a layer after it, so that it can be found again.
    """
    found = (_layer(model, op) for op in model.operators if op.kind in LAYER_KINDS)
    return [layer for layer in found if layer is not None]


def audit_tflite(data: bytes, layers: list[Layer]) -> Audit:
    """Count the int8 operators of a file that ``emit_tflite`` wrote, and trace them to the source.

    Args:
        data: the file.
        layers: of the source.

    Raises:
        SourceError: no .tflite file.
    """
    kernels: dict[str, int] = {}
    known = {layer.name for layer in layers}
    int8: set[str] = set()
    in_float: set[str] = set()
    nameless: list[bool] = []
    model = read_tflite("the emitted file", data)
    for operator in model.operators:
        if operator.kind not in _BRIDGES:
            whole = _is_integer(model, (*operator.inputs, *operator.outputs))
            kernel = operator.kind + ("" if whole else " in float")
            kernels[kernel] = kernels.get(kernel, 0) + 1
    for layer in layers_of(model):
        match = LAYER_NAME.match(layer.name)
        if match and match.group() in known:
            (int8 if layer.int8 else in_float).add(match.group())
        else:
            nameless.append(layer.int8)
    int8 -= in_float
    # A BATCH_MATMUL has no bias; their order is that of the source.
    lost = [
        layer.name
        for layer in layers
        if layer.op in LAYER_OPS and layer.name not in int8 | in_float
    ]
    if len(lost) == len(nameless):
        int8 |= {name for name, is_int8 in zip(lost, nameless, strict=True) if is_int8}
    return Audit(tuple(layers), frozenset(int8), dict(sorted(kernels.items())))


def _is_integer(model: TfliteModel, indices: Sequence[int]) -> bool:
    return all(model.tensors[index].dtype in _INTEGERS for index in indices if index != ABSENT)


def _layer(model: TfliteModel, operator: TfliteOperator) -> TfliteLayer | None:
    # TRANSPOSE_CONV reads the shape of its result first.
    first = 1 if operator.kind == "TRANSPOSE_CONV" else 0
    if len(operator.inputs) < first + 2 or not operator.outputs:
        return None
    if ABSENT in (*operator.inputs[: first + 2], *operator.outputs):
        return None
    bias_place = first + _BIAS_PLACE
    bias = operator.inputs[bias_place] if len(operator.inputs) > bias_place else ABSENT
    name = "" if bias == ABSENT else model.tensors[bias].name
    return TfliteLayer(
        name=name.removesuffix(_BIAS) if name.endswith(_BIAS) else "",
        operator=operator,
        weight=operator.inputs[1],
        int8=_is_integer(model, (*operator.inputs, *operator.outputs)),
    )
