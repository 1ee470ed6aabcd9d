"""Read a .tflite file without trusting it.

A flatbuffer is a web of offsets, any of which may lie: point outside the file, at one another,
or all at the same place, so that a small file unfolds into a huge one. So nothing is unfolded
here: tables are visited one by one through the schema's accessors, weights stay views into the
file, every count has a ceiling, and the sum of all names and operands may not exceed what an
honest file of this size could hold.

Schema: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``, version 3, in the Python form that
ai-edge-litert ships.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from ai_edge_litert import schema_py_generated as schema

from compiler.errors import SourceError
from compiler.tflite.options import OPTIONS, VECTORS

IDENTIFIER = b"TFL3"
"""Bytes 4 to 7 of every .tflite file."""

OPERATORS_MAX = 20_000
TENSORS_MAX = 100_000
RANK_MAX = 8
NAME_MAX = 200
"""Longer tensor names are cut: exporters join the names of every folded layer."""

ABSENT = -1
"""The index that stands for an optional operand that was left out."""

READ_ERRORS = (struct.error, ValueError, TypeError, IndexError, OverflowError, AssertionError)
"""What flatbuffers' accessors and numpy raise on offsets that lie."""

_DTYPES = {
    "FLOAT32": "<f4",
    "FLOAT16": "<f2",
    "FLOAT64": "<f8",
    "INT8": "i1",
    "UINT8": "u1",
    "INT16": "<i2",
    "INT32": "<i4",
    "INT64": "<i8",
    "BOOL": "?",
}

_SCHEMA_VERSION = 3
_OPERATOR_PLACEHOLDER = 127
"""``deprecated_builtin_code`` of operators whose number needs more than a byte."""


@dataclass(frozen=True)
class TfliteTensor:
    """One tensor of the file.

    shape: as stored; a free axis is stored as 1.
    free: per axis, whether its size is left open (-1 in the shape signature).
    dtype: the schema's word, such as ``FLOAT32``.
    data: the constant's values as a view into the file, or None for an activation.
    scales: float32, one or one a channel, where it is quantised.
    """

    index: int
    name: str
    shape: tuple[int, ...]
    free: tuple[bool, ...]
    dtype: str
    data: npt.NDArray[Any] | None
    scales: npt.NDArray[np.float32] | None

    @property
    def quantised(self) -> bool:
        """Whether it carries a scale."""
        return self.scales is not None


@dataclass(frozen=True)
class TfliteOperator:
    """One operator. ``kind`` is the schema's word; a custom operator is ``CUSTOM <its code>``.

    inputs and outputs are tensor indices; ``ABSENT`` stands for an operand left out.
    """

    index: int
    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    options: Mapping[str, Any]

    def sentence(self) -> str:
        """How messages call it."""
        return f"operator {self.index}, {self.kind}"


@dataclass(frozen=True)
class TfliteModel:
    """The one subgraph of a file, every index within bounds."""

    file_name: str
    tensors: tuple[TfliteTensor, ...]
    operators: tuple[TfliteOperator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def read_tflite(file_name: str, data: bytes) -> TfliteModel:
    """Read the bytes of a .tflite file.

    Args:
        file_name: for messages.
        data: the whole file.

    Raises:
        SourceError: not a .tflite file, cut short or damaged, or of a form that is not read
            (several subgraphs, sparse or variable tensors).
    """
    if data[4:8] != IDENTIFIER:
        raise SourceError(
            f"{file_name} is not a .tflite file: expected the identifier TFL3 at byte 4,"
            f" got {data[4:8]!r}"
        )
    try:
        return _Reader(file_name, data).read()
    except READ_ERRORS as error:
        raise SourceError(
            f"{file_name} is a TensorFlow Lite file, but cut short or damaged ({len(data)} bytes):"
            f" {error}",
            hint="fetch or export the file again",
        ) from error


class _Reader:
    def __init__(self, file_name: str, data: bytes) -> None:
        self._file_name = file_name
        self._data = data
        self._bytes = np.frombuffer(data, np.uint8)
        self._model = schema.Model.GetRootAs(data, 0)
        self._left = len(data)

    def read(self) -> TfliteModel:
        model = self._model
        if model.Version() != _SCHEMA_VERSION:
            raise ValueError(f"expected schema version {_SCHEMA_VERSION}, got {model.Version()}")
        if model.SubgraphsLength() != 1:
            raise SourceError(
                f"{self._file_name}: expected one subgraph, got {model.SubgraphsLength()}",
                hint="export the model with one signature and without control flow",
            )
        graph = model.Subgraphs(0)
        count = _at_most(graph.TensorsLength(), TENSORS_MAX, "tensors")
        tensors = tuple(self._tensor(index, graph.Tensors(index)) for index in range(count))
        kinds = self._kinds()
        steps = _at_most(graph.OperatorsLength(), OPERATORS_MAX, "operators")
        operators = tuple(
            self._operator(index, graph.Operators(index), kinds, count) for index in range(steps)
        )
        inputs = self._indices(graph.InputsAsNumpy(), count)
        outputs = self._indices(graph.OutputsAsNumpy(), count)
        if not operators or not inputs or not outputs or ABSENT in (*inputs, *outputs):
            raise ValueError(
                f"{len(operators)} operators, {len(inputs)} inputs, {len(outputs)} outputs"
            )
        return TfliteModel(self._file_name, tensors, operators, inputs, outputs)

    def _spend(self, amount: int) -> None:
        self._left -= amount
        if self._left < 0:
            raise ValueError("its parts add up to more than the file can hold")

    def _tensor(self, index: int, tensor: Any) -> TfliteTensor:
        self._spend(1)
        raw_name = tensor.Name() or b""
        self._spend(len(raw_name))
        name = raw_name[:NAME_MAX].decode("utf-8", "replace")
        shape = tuple(int(size) for size in _vector(tensor.ShapeAsNumpy(), RANK_MAX))
        signature = tuple(int(size) for size in _vector(tensor.ShapeSignatureAsNumpy(), RANK_MAX))
        if any(size < 0 for size in shape):
            raise ValueError(f"tensor {index} has the shape {list(shape)}")
        if tensor.Sparsity() is not None or tensor.IsVariable():
            what = "sparse" if tensor.Sparsity() is not None else "a variable (state)"
            raise SourceError(
                f"{self._file_name}: tensor {index} {name!r} is {what}, which is not read",
                hint="export a stateless model with dense weights",
            )
        dtype = _TENSOR_TYPES.get(tensor.Type(), f"type {tensor.Type()}")
        return TfliteTensor(
            index=index,
            name=name,
            shape=shape,
            free=tuple(size == -1 for size in signature)
            if len(signature) == len(shape)
            else (False,) * len(shape),
            dtype=dtype,
            data=self._values(index, tensor.Buffer(), dtype, shape),
            scales=self._scales(tensor.Quantization()),
        )

    def _scales(self, many: Any) -> npt.NDArray[np.float32] | None:
        if many is None or many.ScaleLength() == 0:
            return None
        scales = _vector(many.ScaleAsNumpy(), len(self._data))
        self._spend(len(scales))
        return np.asarray(scales, np.float32)

    def _values(
        self, index: int, buffer_index: int, dtype: str, shape: tuple[int, ...]
    ) -> npt.NDArray[Any] | None:
        # Files may point activations at buffer 0 or at an empty one of their own.
        if buffer_index == 0:
            return None
        if buffer_index >= self._model.BuffersLength():
            raise ValueError(
                f"tensor {index} wants buffer {buffer_index} of {self._model.BuffersLength()}"
            )
        buffer = self._model.Buffers(buffer_index)
        # Files above 2 GB keep weights behind the flatbuffer: offsets 0 and 1 mean "not so".
        if buffer.Offset() > 1:
            end = buffer.Offset() + buffer.Size()
            if end > len(self._data):
                raise ValueError(f"buffer {buffer_index} ends at byte {end}")
            raw = self._bytes[buffer.Offset() : end]
        else:
            raw = _vector(buffer.DataAsNumpy(), len(self._data))
        if len(raw) == 0:
            return None
        if dtype not in _DTYPES:
            return np.asarray(raw)
        kind = np.dtype(_DTYPES[dtype])
        if math.prod(shape) * kind.itemsize != len(raw):
            raise ValueError(
                f"tensor {index} of shape {list(shape)} and type {dtype} holds {len(raw)} bytes"
            )
        return np.asarray(raw).view(kind).reshape(shape)

    def _kinds(self) -> list[str]:
        kinds = []
        for index in range(_at_most(self._model.OperatorCodesLength(), OPERATORS_MAX, "codes")):
            code = self._model.OperatorCodes(index)
            # Operators up to 126 may stand in the old field only, later ones in the new one.
            old = code.DeprecatedBuiltinCode()
            number = (
                code.BuiltinCode() if old == _OPERATOR_PLACEHOLDER else max(old, code.BuiltinCode())
            )
            kind = _OPERATORS.get(number, f"UNKNOWN {number}")
            if kind == "CUSTOM":
                custom = code.CustomCode() or b"?"
                self._spend(len(custom))
                kind = f"CUSTOM {custom[:NAME_MAX].decode('utf-8', 'replace')}"
            kinds.append(kind)
        return kinds

    def _operator(self, index: int, op: Any, kinds: list[str], tensors: int) -> TfliteOperator:
        self._spend(1)
        if op.OpcodeIndex() >= len(kinds):
            raise ValueError(f"operator {index} has code {op.OpcodeIndex()} of {len(kinds)}")
        kind = kinds[op.OpcodeIndex()]
        return TfliteOperator(
            index=index,
            kind=kind,
            inputs=self._indices(op.InputsAsNumpy(), tensors),
            outputs=self._indices(op.OutputsAsNumpy(), tensors),
            options=_options(index, kind, op),
        )

    def _indices(self, values: Any, tensors: int) -> tuple[int, ...]:
        array = _vector(values, len(self._data))
        self._spend(len(array))
        indices = tuple(int(value) for value in array)
        if any(not ABSENT <= value < tensors for value in indices):
            raise ValueError(f"a tensor index lies outside the {tensors} tensors")
        return indices


def _options(index: int, kind: str, op: Any) -> dict[str, Any]:
    table = op.BuiltinOptions()
    if kind not in OPTIONS or table is None:
        return {}
    class_name, fields = OPTIONS[kind]
    if op.BuiltinOptionsType() == 0:
        return {}
    if op.BuiltinOptionsType() != getattr(schema.BuiltinOptions, class_name):
        raise ValueError(f"operator {index}, {kind}, carries the options of another operator")
    options = getattr(schema, class_name)()
    options.Init(table.Bytes, table.Pos)
    found: dict[str, Any] = {}
    for field in fields:
        if field in VECTORS:
            vector = _vector(getattr(options, field + "AsNumpy")(), RANK_MAX)
            found[field] = tuple(int(value) for value in vector)
        else:
            found[field] = getattr(options, field)()
    return found


def _vector(values: Any, longest: int) -> npt.NDArray[Any]:
    """What an ``AsNumpy`` accessor gave; it gives 0 for a vector that is not there."""
    if isinstance(values, int):
        return np.zeros(0, np.int32)
    _at_most(len(values), longest, "entries")
    return np.asarray(values)


def _at_most(count: int, ceiling: int, what: str) -> int:
    if count > ceiling:
        raise ValueError(f"{count} {what}; at most {ceiling} are read")
    return count


def _names(enumeration: type) -> dict[int, str]:
    return {value: name for name, value in vars(enumeration).items() if isinstance(value, int)}


_OPERATORS = _names(schema.BuiltinOperator)
_TENSOR_TYPES = _names(schema.TensorType)
