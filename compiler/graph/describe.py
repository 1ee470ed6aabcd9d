"""What can be said of a model file without running it: inputs, outputs, operators, layers, MACs.

Unlike ``source`` it takes any model, an int8 one or one with many inputs, for it promises nothing
about compiling it.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from contextlib import suppress
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper

from compiler.errors import SourceError
from compiler.graph.check import LAYER_OPS, all_nodes, refuse_bad_text, sort_nodes
from compiler.graph.facts import LayerFacts, ModelFacts, TensorFacts, Weight
from compiler.graph.floatgraph import constant_tensors
from compiler.graph.foreign import refuse_foreign
from compiler.graph.layers import FLOAT_OPS, Shape, macs, tensors_counted
from compiler.graph.source import MODEL_LIMIT_BYTES, external_files
from compiler.graph.uncounted import list_uncounted
from compiler.tflite.load import litert_schema, load_tflite
from edge_contract.errors import ExitCode

_LAYERS = (*LAYER_OPS, *FLOAT_OPS)

TFLITE_MAGIC = b"TFL3"
"""Bytes 4 to 7 of every .tflite file."""


def read_facts(path: Path) -> ModelFacts:
    """The facts of the file at ``path``.

    Raises:
        SourceError: unreadable, or not a model file.
    """
    if path.is_dir():
        raise SourceError(
            f"the directory {path} is no bundle and holds none",
            hint="give a model file, a bundle, or the --out directory of a build that passed",
            exit_code=ExitCode.NOT_FOUND,
        )
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MODEL_LIMIT_BYTES:
            raise SourceError(
                f"{path}: {size_bytes} bytes; a model file of at most {MODEL_LIMIT_BYTES} is read"
            )
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise SourceError(f"no model or bundle {path}", exit_code=ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise SourceError(f"cannot read {path}: {error.strerror}") from error
    state = hashlib.sha256(data)
    if is_int8_tflite(path.name, data):
        return facts_in(path.name, data, "sha256:" + state.hexdigest(), size_bytes)
    model = parse(path.name, data)
    for file in external_files(path, model):
        state.update(file.read_bytes())
        size_bytes += file.stat().st_size
    return facts_of(model, "sha256:" + state.hexdigest(), size_bytes)


def is_int8_tflite(name: str, data: bytes) -> bool:
    """Whether these bytes are a .tflite file with integer layers, which no ONNX stands for."""
    if data[4:8] != TFLITE_MAGIC:
        return False
    with litert_schema(f"{name} is a TensorFlow Lite file; reading it"):
        from compiler.tflite.facts import is_quantised
    return is_quantised(name, data)


def facts_in(name: str, data: bytes, digest: str, size_bytes: int) -> ModelFacts:
    """The facts of a model file without external data: ONNX, float or int8 .tflite.

    Raises:
        SourceError: something else, or cut short.
    """
    if is_int8_tflite(name, data):
        from compiler.tflite.facts import facts_of_tflite

        return facts_of_tflite(name, data, digest, size_bytes)
    return facts_of(parse(name, data), digest, size_bytes)


def weights_in(name: str, data: bytes) -> dict[str, Weight]:
    """Each layer's constant in a model file, as ``weights_of``.

    Raises:
        SourceError: no model file, or cut short.
    """
    if is_int8_tflite(name, data):
        from compiler.tflite.facts import tflite_weights

        return tflite_weights(name, data)
    return weights_of(parse(name, data))


def parse(name: str, data: bytes) -> ModelProto:
    """ONNX from bytes, of ONNX or of float .tflite.

    Raises:
        SourceError: something else, cut short, or an int8 .tflite file.
    """
    if data[4:8] == TFLITE_MAGIC:
        return load_tflite(name, data)
    refuse_foreign(name, data)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise SourceError(f"{name} is not an ONNX file, or it is cut short: {error}") from error
    # Protobuf reads many a stray file as an empty message.
    if not model.graph.node or not model.opset_import:
        raise SourceError(f"{name} is not an ONNX file, or it is cut short: it holds no nodes")
    refuse_bad_text(name, model)
    return model


def facts_of(model: ModelProto, digest: str, size_bytes: int) -> ModelFacts:
    """The facts of a parsed model.

    Raises:
        SourceError: its tensors contradict what is said of them.
    """
    try:
        return _facts(model, digest, size_bytes)
    # What protobuf, numpy and shape arithmetic raise on numbers that lie.
    except (ValueError, TypeError, KeyError, IndexError, OverflowError, ArithmeticError) as error:
        raise SourceError(
            f"the model is damaged: {str(error)[:200]}", hint="fetch or export the file again"
        ) from error


def _facts(model: ModelProto, digest: str, size_bytes: int) -> ModelFacts:
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    stored: Counter[str] = Counter()
    parameters = 0
    for tensor in graph.initializer:
        elements = math.prod(tensor.dims)
        parameters += elements
        stored[_dtype(tensor.data_type)] += elements * _item_bytes(tensor.data_type)
    shapes = _shapes(model)
    weights = weights_of(model)
    fixed = constant_tensors(graph)
    layers = [
        LayerFacts(
            name=node.name,
            op=node.op_type,
            weight_dtype=str(weights[node.name].values.dtype) if node.name in weights else "",
            weight_shape=list(weights[node.name].values.shape) if node.name in weights else [],
            macs=_macs(node, shapes),
        )
        for node in graph.node
        if node.op_type in _LAYERS and not fixed & set(node.output)
    ]
    known = [layer.macs for layer in layers if layer.macs is not None]
    return ModelFacts(
        digest=digest,
        size_bytes=size_bytes,
        opset=max(
            (o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0
        ),
        producer=f"{model.producer_name} {model.producer_version}".strip(),
        inputs=[_tensor(value) for value in graph.input if value.name not in constants],
        outputs=[_tensor(value) for value in graph.output],
        ops=dict(sorted(Counter(node.op_type for node in all_nodes(graph)).items())),
        parameters_count=parameters,
        stored_bytes=dict(sorted(stored.items())),
        macs=sum(known) if len(known) == len(layers) else None,
        layers=layers,
        not_counted=[one.sentence() for one in list_uncounted(graph, {})],
    )


def weights_of(model: ModelProto) -> dict[str, Weight]:
    """Each layer's constant by the layer's name; through DequantizeLinear where it is int8."""
    graph = model.graph
    constants = {tensor.name: tensor for tensor in graph.initializer}
    makers = {output: node for node in graph.node for output in node.output}
    found: dict[str, Weight] = {}
    for node in graph.node:
        if node.op_type not in _LAYERS or len(node.input) < 2:
            continue
        name, scales = node.input[1], None
        maker = makers.get(name)
        if maker is not None and maker.op_type == "DequantizeLinear":
            name = maker.input[0]
            if maker.input[1] in constants:
                scales = numpy_helper.to_array(constants[maker.input[1]])
        if name in constants:
            found[node.name] = Weight(numpy_helper.to_array(constants[name]), scales)
    return found


def _shapes(model: ModelProto) -> dict[str, Shape]:
    """Static shapes for a batch of one frame, of every tensor that has one."""
    single = ModelProto()
    single.CopyFrom(model)
    constants = {tensor.name for tensor in single.graph.initializer}
    for value in single.graph.input:
        axes = value.type.tensor_type.shape.dim
        if value.name not in constants and axes and axes[0].dim_value <= 0:
            axes[0].dim_value = 1
    # Shapes written down for a free batch would stand in the way of those for one frame.
    del single.graph.value_info[:]
    for value in single.graph.output:
        value.type.tensor_type.ClearField("shape")
    graph: GraphProto = single.graph
    # A model that contradicts itself still has operators and sizes to show.
    with suppress(SourceError, onnx.shape_inference.InferenceError, RuntimeError, ValueError):
        sort_nodes("model", graph)
        graph = onnx.shape_inference.infer_shapes(single).graph
    shapes: dict[str, Shape] = {t.name: tuple(t.dims) for t in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        kind = value.type.tensor_type
        sizes = tuple(axis.dim_value for axis in kind.shape.dim)
        if kind.HasField("shape") and all(size > 0 for size in sizes):
            shapes.setdefault(value.name, sizes)
    return shapes


def _macs(node: NodeProto, shapes: dict[str, Shape]) -> int | None:
    return macs(node, shapes) if all(name in shapes for name in tensors_counted(node)) else None


def _tensor(value: ValueInfoProto) -> TensorFacts:
    kind = value.type.tensor_type
    shape: list[int | str | None] = [
        axis.dim_value if axis.dim_value > 0 else axis.dim_param or None for axis in kind.shape.dim
    ]
    return TensorFacts(value.name, _dtype(kind.elem_type), shape)


def _dtype(element: int) -> str:
    return str(TensorProto.DataType.Name(element)).lower()


def _item_bytes(element: int) -> int:
    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(element).itemsize)
    except (KeyError, TypeError):
        return 0
