"""Models in half or double precision become float32: the one width that everything after works in.

Converters write float16 weights behind Casts, or whole graphs in float16. Int8 is made from
float32 values and its answers are float32, so every float type of another width is replaced,
wherever a graph can name one: weights, constants, inputs, outputs, the target of a Cast.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    ValueInfoProto,
    numpy_helper,
)

from compiler.graph.check import all_nodes

OTHER_FLOATS = (TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE)

_INTEGERS = (TensorProto.UINT8, TensorProto.INT8, TensorProto.UINT16, TensorProto.INT16)

WIDENED = "weights cast to float32"
"""Metadata of a model that a reader has widened already: how many weights of which type."""

_TYPE_ATTRIBUTES = ("to", "dtype")
"""Attributes of Cast, EyeLike, RandomNormal and the like that name a type."""


def widen(model: ModelProto) -> str:
    """Make every float of another width float32, and say in a sentence what was changed, or "".

    Args:
        model: sound (``graphcheck.check_graph``); changed in place.
    """
    weights: Counter[str] = Counter()
    types = _graph(model.graph, weights)
    for function in model.functions:
        types += _nodes(function.node, weights) + _types(function.value_info)
    told = ", ".join(f"{count:,} {name}" for name, count in sorted(weights.items()))
    told = next((entry.value for entry in model.metadata_props if entry.key == WIDENED), told)
    if not types and not told:
        return ""
    _drop_idle_casts(model)
    what = f"its weights ({told}) were cast" if told else "its inner values were changed"
    return f"the model is not float32 throughout: {what} to float32, which int8 is compared with"


def widen_inputs(model: ModelProto) -> str:
    """Make integer inputs that are cast to float32 before anything else float32 themselves, and say
    so in a sentence, or "".

    For whole numbers up to 2 ** 24 the model then gives the same; devices hand over float32.

    Args:
        model: sound, and widened; changed in place.
    """
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    changed = []
    for value in graph.input:
        kind = value.type.tensor_type
        users = [node for node in all_nodes(graph) if value.name in node.input]
        if value.name in constants or kind.elem_type not in _INTEGERS or not users:
            continue
        if all(node.op_type == "Cast" and _cast_to(node) == TensorProto.FLOAT for node in users):
            changed.append(f"{value.name!r} ({TensorProto.DataType.Name(kind.elem_type).lower()})")
            kind.elem_type = TensorProto.FLOAT
    if not changed:
        return ""
    _drop_idle_casts(model)
    return f"the model casts its input {', '.join(changed)} to float32; it takes float32 itself now"


def note_widened(model: ModelProto, count: int) -> None:
    """Remember that ``count`` float16 weights were widened while ``model`` was made."""
    if count:
        model.metadata_props.add(key=WIDENED, value=f"{count:,} float16")


def _drop_idle_casts(model: ModelProto) -> None:
    """Casts from float32 to itself become Identity, which folds away; a Cast would hide what stands
    before it from whoever looks for the end of the network."""
    graph = model.graph
    # What contradicts itself here, the runtime refuses with a better sentence.
    with suppress(onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        graph = onnx.shape_inference.infer_shapes(model).graph
    kinds = {tensor.name: tensor.data_type for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kinds[value.name] = value.type.tensor_type.elem_type
    for node in model.graph.node:
        if node.op_type == "Cast" and kinds.get(node.input[0]) == _cast_to(node):
            node.op_type = "Identity"
            del node.attribute[:]


def _cast_to(node: NodeProto) -> int:
    return int(next(attribute.i for attribute in node.attribute if attribute.name == "to"))


def _graph(graph: GraphProto, weights: Counter[str]) -> int:
    """Widen a graph, count its weights by type, and return how many other types were changed."""
    for tensor in (*graph.initializer, *(sparse.values for sparse in graph.sparse_initializer)):
        _tensor(tensor, weights)
    values = (*graph.input, *graph.output, *graph.value_info)
    return _types(values) + _nodes(graph.node, weights)


def _nodes(nodes: Iterable[NodeProto], weights: Counter[str]) -> int:
    changed = 0
    for node in nodes:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                _tensor(attribute.t, weights)
            elif attribute.name in _TYPE_ATTRIBUTES and attribute.i in OTHER_FLOATS:
                attribute.i = TensorProto.FLOAT
                changed += 1
            changed += sum(_graph(graph, weights) for graph in _nested(attribute))
    return changed


def _nested(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.type == AttributeProto.GRAPH:
        yield attribute.g
    elif attribute.type == AttributeProto.GRAPHS:
        yield from attribute.graphs


def _types(values: Iterable[ValueInfoProto]) -> int:
    kinds = [value.type.tensor_type for value in values]
    other = [kind for kind in kinds if kind.elem_type in OTHER_FLOATS]
    for kind in other:
        kind.elem_type = TensorProto.FLOAT
    return len(other)


def _tensor(tensor: TensorProto, weights: Counter[str]) -> None:
    if tensor.data_type not in OTHER_FLOATS:
        return
    weights[TensorProto.DataType.Name(tensor.data_type).lower()] += 1
    # Doubles beyond float32's reach stand for "no limit": they stay the largest number there is.
    reach = np.finfo(np.float32).max
    values = np.clip(numpy_helper.to_array(tensor).astype(np.float64), -reach, reach)
    tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float32), tensor.name))
