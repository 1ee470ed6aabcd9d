"""Checks of an ONNX graph that say in one sentence what is wrong with it."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from typing import NoReturn

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from compiler.errors import SourceError

LAYER_OPS = ("Conv", "Gemm", "MatMul")
"""The operators whose multiplications are counted and expected in int8."""

_KNOWN_DOMAINS = ("", "ai.onnx", "ai.onnx.ml", "com.microsoft")
TENSOR_LIMIT_BYTES = 2 * 1024**3
"""What one activation may measure."""

_CLASSIC_OPS = ("TreeEnsemble", "SVM", "Linear")
_FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.BFLOAT16)


def check_graph(name: str, model: ModelProto) -> None:
    """Refuse what cannot be quantised, and put nodes into an order that can be executed.

    Args:
        name: the file's name, for messages.
        model: changed in place: its nodes are sorted topologically.

    Raises:
        SourceError: custom or unknown operators, a cycle, int8 already, weights that are NaN or
            infinite, no layer to quantise, or whatever else ONNX's own checker finds.
    """
    refuse_bad_text(name, model)
    _refuse_custom_operators(name, model)
    _refuse_quantised(name, model)
    sort_nodes(name, model.graph)
    _refuse_bad_weights(name, model)
    if not any(node.op_type in LAYER_OPS for node in all_nodes(model.graph)):
        _refuse_without_layers(name, model)
    try:
        onnx.checker.check_model(model)
    except (onnx.checker.ValidationError, ValueError) as error:
        first = str(error).strip().splitlines()[0][:300]
        raise SourceError(f"{name} is not a valid ONNX model: {first}") from error
    _refuse_huge_tensors(name, model)


def _refuse_huge_tensors(name: str, model: ModelProto) -> None:
    """A few bytes (pads of a billion, a constant of a shape) can ask for more memory than there is,
    and the runtime would try."""
    single = ModelProto()
    single.CopyFrom(model)
    constants = {tensor.name for tensor in single.graph.initializer}
    for value in single.graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name not in constants and axes and axes[0].dim_value <= 0:
            axes[0].dim_value = 1
    try:
        graph = onnx.shape_inference.infer_shapes(single, data_prop=True).graph
    # Whatever contradicts itself here, the runtime refuses with a better sentence.
    except (onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        return
    for value in (*graph.input, *graph.value_info, *graph.output):
        sizes = [axis.dim_value for axis in value.type.tensor_type.shape.dim]
        if all(size > 0 for size in sizes) and 4 * math.prod(sizes) > TENSOR_LIMIT_BYTES:
            raise SourceError(
                f"{name}: the tensor {value.name!r} of shape {sizes} would take"
                f" {4 * math.prod(sizes)} bytes for one frame; at most {TENSOR_LIMIT_BYTES} are"
                " accepted",
                hint="the file is damaged, or the model is not one for an embedded device",
            )


def _refuse_without_layers(name: str, model: ModelProto) -> NoReturn:
    classic = sorted(
        {
            node.op_type
            for node in all_nodes(model.graph)
            if node.domain == "ai.onnx.ml" and node.op_type.startswith(_CLASSIC_OPS)
        }
    )
    missing = f"{name}: no {', '.join(LAYER_OPS)} in it, so nothing would run in int8"
    if not classic:
        raise SourceError(missing)
    if any("Tree" in kind for kind in classic):
        why = "trees compare and add; they have no multiplications that int8 could save"
    else:
        why = "only the layers of networks can be"
    raise SourceError(
        f"{missing}: {', '.join(classic)} of scikit-learn cannot be quantised, {why}",
        hint="serve it in float with onnxruntime, or train an MLPClassifier or another network",
        docs="how-to/export.md",
    )


def all_nodes(graph: GraphProto) -> Iterator[NodeProto]:
    """Every node, those of nested graphs (If, Loop, Scan) included."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                yield from all_nodes(attribute.g)


def sort_nodes(name: str, graph: GraphProto) -> None:
    """Sort ``graph.node`` so that every tensor is made before it is used (Kahn's algorithm).

    Raises:
        SourceError: a cycle, a tensor that nobody makes, or one that is made twice.
    """
    available = {value.name for value in graph.input}
    available |= {tensor.name for tensor in graph.initializer}
    available |= {tensor.values.name for tensor in graph.sparse_initializer}
    available.add("")
    makers: dict[str, int] = {}
    for index, node in enumerate(graph.node):
        for output in node.output:
            if output and (output in makers or output in available):
                raise SourceError(f"{name}: the tensor {output!r} is made twice")
            if output:
                makers[output] = index
    waiting: list[set[str]] = []
    users: dict[str, list[int]] = {}
    for index, node in enumerate(graph.node):
        needs = {tensor for tensor in _needs(node) if tensor not in available}
        unknown = sorted(tensor for tensor in needs if tensor not in makers)
        if unknown:
            raise SourceError(
                f"{name}: {node.op_type} {node.name!r} needs the tensor {unknown[0]!r},"
                " which nothing in the graph makes"
            )
        waiting.append(needs)
        for tensor in needs:
            users.setdefault(tensor, []).append(index)
    ready = [index for index, needs in enumerate(waiting) if not needs]
    order: list[int] = []
    while ready:
        index = ready.pop(0)
        order.append(index)
        for tensor in graph.node[index].output:
            for user in users.get(tensor, ()):
                waiting[user].discard(tensor)
                if not waiting[user]:
                    ready.append(user)
            users.pop(tensor, None)
    if len(order) < len(graph.node):
        stuck = [graph.node[i] for i in sorted(set(range(len(graph.node))) - set(order))]
        shown = ", ".join(f"{node.op_type} {node.name!r}" for node in stuck[:4])
        raise SourceError(
            f"{name}: the graph has a cycle through {shown}",
            hint="the file is damaged or was edited by hand; export the model again",
        )
    if order != sorted(order):
        nodes = [NodeProto.FromString(graph.node[i].SerializeToString()) for i in order]
        del graph.node[:]
        graph.node.extend(nodes)


def _needs(node: NodeProto) -> Iterator[str]:
    """Tensors a node reads, those that its nested graphs take from outside included."""
    yield from node.input
    for attribute in node.attribute:
        if attribute.type != AttributeProto.GRAPH:
            continue
        inner = attribute.g
        own = {value.name for value in inner.input} | {t.name for t in inner.initializer}
        own |= {output for nested in inner.node for output in nested.output}
        for nested in inner.node:
            yield from (tensor for tensor in _needs(nested) if tensor not in own)
        yield from (value.name for value in inner.output if value.name not in own)


def refuse_bad_text(name: str, model: ModelProto) -> None:
    """Protobuf hands out names that are not UTF-8 as bytes, which nothing after this expects."""
    graph = model.graph
    texts: list[object] = [entry.domain for entry in model.opset_import]
    texts += [value.name for value in (*graph.input, *graph.output)]
    texts += [tensor.name for tensor in _weights(graph)]
    for node in all_nodes(graph):
        texts += [node.op_type, node.domain, node.name, *node.input, *node.output]
        texts += [attribute.name for attribute in node.attribute]
    for text in texts:
        if not isinstance(text, str):
            raise SourceError(
                f"{name} is damaged: a name in it is not UTF-8 text ({text!r:.60})",
                hint="fetch or export the file again",
            )


def _refuse_custom_operators(name: str, model: ModelProto) -> None:
    opsets = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    local = {(function.domain, function.name) for function in model.functions}
    unknown: Counter[str] = Counter()
    for node in all_nodes(model.graph):
        if (node.domain, node.op_type) in local:
            continue
        if node.domain not in _KNOWN_DOMAINS:
            unknown[f"{node.domain}.{node.op_type}"] += 1
        elif node.domain != "com.microsoft":
            version = opsets.get(node.domain or "ai.onnx", 1)
            domain = "" if node.domain == "ai.onnx" else node.domain
            if not onnx.defs.has(node.op_type, version, domain):
                unknown[f"{node.op_type} (opset {version})"] += 1
    if unknown:
        shown = ", ".join(f"{count}x {kind[:80]}" for kind, count in sorted(unknown.items())[:20])
        raise SourceError(
            f"{name}: operators that no device here can run: {shown}",
            hint="replace custom operators by standard ONNX ones and export the model again",
        )


def _refuse_quantised(name: str, model: ModelProto) -> None:
    for node in all_nodes(model.graph):
        if _is_quantised_op(node.op_type):
            raise SourceError(
                f"{name} is quantised already: it holds {node.op_type} {node.name!r}",
                hint="give the float model that it was made from",
            )


def _is_quantised_op(op: str) -> bool:
    return (
        op.startswith("QLinear")
        or op.endswith("Integer")
        or op in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QGemm")
    )


def _refuse_bad_weights(name: str, model: ModelProto) -> None:
    for tensor in _weights(model.graph):
        if tensor.data_type not in _FLOATS:
            continue
        try:
            values = numpy_helper.to_array(tensor)
        except (ValueError, TypeError) as error:
            raise SourceError(
                f"{name}: weight {tensor.name!r} does not hold what its shape"
                f" {list(tensor.dims)} says: {error}"
            ) from error
        bad = int(np.count_nonzero(~np.isfinite(values)))
        if bad:
            raise SourceError(
                f"{name}: weight {tensor.name!r} holds {bad} NaN or infinite values"
                f" (of {values.size})",
                hint="training diverged, or the file is damaged; take an earlier checkpoint",
            )


def _weights(graph: GraphProto) -> Iterator[TensorProto]:
    yield from graph.initializer
    for node in all_nodes(graph):
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == AttributeProto.GRAPH:
                yield from attribute.g.initializer
