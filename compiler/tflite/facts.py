"""What can be said of a .tflite file as it stands, an int8 one too, without running it."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np

from compiler.graph.facts import LayerFacts, ModelFacts, TensorFacts, Weight
from compiler.tflite.audit import TfliteLayer, layers_of
from compiler.tflite.read import TfliteModel, TfliteTensor, read_tflite

_DTYPES = {"FLOAT32": "float", "FLOAT64": "double"}
"""The schema's words for what ONNX calls otherwise."""

_UNCOUNTED = ("LSTM", "RNN", "SVDF", "CONV_3D", "WHILE", "IF", "CALL")
"""What the names of operators hold that multiply, or hold graphs that do."""


def facts_of_tflite(file_name: str, data: bytes, digest: str, size_bytes: int) -> ModelFacts:
    """The facts of a file; ``opset`` is 0, for it has none.

    Raises:
        SourceError: not a .tflite file, or damaged.
    """
    model = read_tflite(file_name, data)
    stored: Counter[str] = Counter()
    parameters = 0
    for tensor in model.tensors:
        if tensor.data is not None:
            parameters += math.prod(tensor.shape)
            stored[_dtype(tensor)] += int(tensor.data.nbytes)
    layers = [_layer(model, layer) for layer in layers_of(model)]
    known = [layer.macs for layer in layers if layer.macs is not None]
    return ModelFacts(
        digest=digest,
        size_bytes=size_bytes,
        opset=0,
        producer="",
        inputs=[_tensor(model.tensors[index]) for index in model.inputs],
        outputs=[_tensor(model.tensors[index]) for index in model.outputs],
        ops=dict(sorted(Counter(op.kind for op in model.operators).items())),
        parameters_count=parameters,
        stored_bytes=dict(sorted(stored.items())),
        macs=sum(known) if len(known) == len(layers) else None,
        layers=layers,
        not_counted=[op.sentence() for op in model.operators if _multiplies(op.kind)],
    )


def tflite_weights(file_name: str, data: bytes) -> dict[str, Weight]:
    """Each layer's constant by the layer's name, as it is stored, and its scales.

    Raises:
        SourceError: not a .tflite file, or damaged.
    """
    model = read_tflite(file_name, data)
    found: dict[str, Weight] = {}
    for layer in layers_of(model):
        weight = model.tensors[layer.weight]
        if weight.data is not None:
            found[_name(layer)] = Weight(weight.data, weight.scales)
    return found


def is_quantised(file_name: str, data: bytes) -> bool:
    """Whether one of its layers multiplies integers.

    Raises:
        SourceError: not a .tflite file, or damaged.
    """
    return any(layer.int8 for layer in layers_of(read_tflite(file_name, data)))


def _multiplies(kind: str) -> bool:
    """Whether an operator that has no count here multiplies, as far as its name tells."""
    return kind.startswith("CUSTOM") or any(word in kind for word in _UNCOUNTED)


def _layer(model: TfliteModel, layer: TfliteLayer) -> LayerFacts:
    weight = model.tensors[layer.weight]
    constant = weight.data is not None
    return LayerFacts(
        name=_name(layer),
        op=layer.operator.kind,
        weight_dtype=str(np.asarray(weight.data).dtype) if constant else "",
        weight_shape=list(weight.shape) if constant else [],
        macs=_macs(model, layer),
    )


def _name(layer: TfliteLayer) -> str:
    return layer.name or f"{layer.operator.kind}_{layer.operator.index}"


def _macs(model: TfliteModel, layer: TfliteLayer) -> int | None:
    """Multiply-accumulates for one frame; None for shapes that no kernel takes."""
    operator, weight = layer.operator, model.tensors[layer.weight].shape
    left = model.tensors[operator.inputs[0]].shape
    wanted = {"FULLY_CONNECTED": 2, "BATCH_MATMUL": 2}.get(operator.kind, 4)
    if len(weight) < wanted or (operator.kind == "BATCH_MATMUL" and len(left) < 2):
        return None
    made = math.prod(model.tensors[operator.outputs[0]].shape)
    if operator.kind == "DEPTHWISE_CONV_2D":  # [1, height, width, channels]
        return made * math.prod(weight[1:3])
    if operator.kind == "TRANSPOSE_CONV":  # [out, height, width, in], once for each input
        read = math.prod(model.tensors[operator.inputs[2]].shape)
        return read * math.prod(weight[:3])
    if operator.kind == "BATCH_MATMUL":
        return made * (left[-2] if operator.options.get("AdjX") else left[-1])
    return made * math.prod(weight[1:])  # [out, ...]


def _tensor(tensor: TfliteTensor) -> TensorFacts:
    shape: list[int | str | None] = [
        None if free else size for size, free in zip(tensor.shape, tensor.free, strict=True)
    ]
    return TensorFacts(tensor.name, _dtype(tensor), shape)


def _dtype(tensor: TfliteTensor) -> str:
    return _DTYPES.get(tensor.dtype, tensor.dtype.lower())
