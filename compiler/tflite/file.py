"""Assemble a .tflite file: tensors, operators and one signature into bytes.

Weights lie on multiples of 16 bytes, as the schema's ``force_align`` demands and kernels on ARM
expect; the generated Python code does not see to that. Equal constants are stored once. The same
calls give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import flatbuffers
import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

_ALIGNMENT_BYTES = 16
_SCHEMA_VERSION = 3
_OPERATOR_PLACEHOLDER = 127
_TYPES = {"float32": 0, "int32": 2, "int64": 4, "int8": 9}


@dataclass(frozen=True)
class Quantisation:
    """Scales and zero points of one tensor; ``axis`` is that of the channels, if there are many."""

    scales: npt.NDArray[np.float32]
    zero_point: int
    axis: int = 0


class TfliteFile:
    """A .tflite file with one subgraph, under construction. Tensors are known by their index."""

    def __init__(self) -> None:
        self._graph = schema.SubGraphT()
        self._graph.name = "main"
        self._graph.tensors, self._graph.operators = [], []
        self._graph.inputs, self._graph.outputs = [], []
        self._buffers: list[_AlignedBuffer] = [_AlignedBuffer(b"")]
        self._buffer_indices: dict[bytes, int] = {b"": 0}
        self._codes: list[Any] = []
        self._code_indices: dict[tuple[str, int], int] = {}

    def add_tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str,
        quantisation: Quantisation | None = None,
        data: bytes = b"",
    ) -> int:
        """Add a tensor; with ``data`` (little-endian, C order) it is a constant."""
        tensor = schema.TensorT()
        tensor.name = name
        tensor.shape = np.array(shape, np.int32)
        tensor.type = _TYPES[dtype]
        tensor.hasRank = True
        if data not in self._buffer_indices:
            self._buffer_indices[data] = len(self._buffers)
            self._buffers.append(_AlignedBuffer(data))
        tensor.buffer = self._buffer_indices[data]
        if quantisation is not None:
            many = schema.QuantizationParametersT()
            many.scale = np.asarray(quantisation.scales, np.float32)
            many.zeroPoint = np.full(len(many.scale), quantisation.zero_point, np.int64)
            many.quantizedDimension = quantisation.axis
            tensor.quantization = many
        self._graph.tensors.append(tensor)
        return len(self._graph.tensors) - 1

    def shape(self, tensor: int) -> tuple[int, ...]:
        """The shape of a tensor."""
        return tuple(int(size) for size in self._graph.tensors[tensor].shape)

    def add_operator(
        self,
        kind: str,
        version: int,
        inputs: Sequence[int],
        outputs: Sequence[int],
        table: str = "",
        **options: Any,
    ) -> None:
        """Add an operator.

        Args:
            kind: its name in the schema.
            version: the least version of the operator that can do it.
            table: the class of its options in the schema, if it has options.
            options: their fields.
        """
        if (kind, version) not in self._code_indices:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, kind)
            code.deprecatedBuiltinCode = min(code.builtinCode, _OPERATOR_PLACEHOLDER)
            code.version = version
            self._code_indices[kind, version] = len(self._codes)
            self._codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = self._code_indices[kind, version]
        operator.inputs = np.array(inputs, np.int32)
        operator.outputs = np.array(outputs, np.int32)
        if table:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in options.items():
                setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)

    def finish(self, inputs: Mapping[str, int], outputs: Mapping[str, int]) -> bytes:
        """The bytes of the file, with a signature ``serving_default`` of these names."""
        self._graph.inputs = np.array(list(inputs.values()), np.int32)
        self._graph.outputs = np.array(list(outputs.values()), np.int32)
        signature = schema.SignatureDefT()
        signature.signatureKey = "serving_default"
        signature.inputs = [_named(name, tensor) for name, tensor in inputs.items()]
        signature.outputs = [_named(name, tensor) for name, tensor in outputs.items()]
        model = schema.ModelT()
        model.version = _SCHEMA_VERSION
        model.description = "wherry"
        model.operatorCodes = self._codes
        model.subgraphs = [self._graph]
        model.buffers = self._buffers
        model.signatureDefs = [signature]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class _AlignedBuffer:
    """Takes the place of the schema's ``BufferT``, whose data lie wherever they come to lie."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def Pack(self, builder: Any) -> Any:  # noqa: N802 - the schema's name
        if self._data:
            builder.StartVector(1, len(self._data), _ALIGNMENT_BYTES)
            builder.head = builder.Head() - len(self._data)
            builder.Bytes[builder.Head() : builder.Head() + len(self._data)] = self._data
            vector = builder.EndVector()
        schema.BufferStart(builder)
        if self._data:
            schema.BufferAddData(builder, vector)
        return schema.BufferEnd(builder)


def _named(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry
