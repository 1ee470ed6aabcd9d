"""Build an ONNX graph from tensors that .tflite keeps as NHWC.

Every rank-4 tensor may exist in two layouts. The first operator that needs the other one gets a
Transpose; the result is remembered. Convolutions and pools work in NCHW, operators that do not
care (activations, additions) keep the layout of their inputs, and so Transposes are left only at
the borders: behind the model's input, and where a head reshapes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from compiler.errors import SourceError
from compiler.graph.precision import note_widened
from compiler.tflite.read import ABSENT, TfliteModel, TfliteOperator, TfliteTensor

NHWC = "nhwc"
NCHW = "nchw"
"""Only of rank-4 tensors; all others count as NHWC, that is, as they stand in the file."""

TO_NCHW = (0, 3, 1, 2)
TO_NHWC = (0, 2, 3, 1)

CONSTANTS_LIMIT_BYTES = 2 * 1024**3 - 1
"""An ONNX message holds no more. Tensors that share a buffer add up."""

NONE, RELU, RELU_N1_TO_1, RELU6, TANH = range(5)
"""``ActivationFunctionType`` of the schema, as far as it is converted."""

_CLIPS = {RELU_N1_TO_1: (-1.0, 1.0), RELU6: (0.0, 6.0)}

_ONNX_TYPES = {
    "FLOAT32": TensorProto.FLOAT,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "BOOL": TensorProto.BOOL,
}


class OnnxGraph:
    """The ONNX graph under construction.

    Args:
        model: the file. Its inputs are there from the start.
    """

    def __init__(self, model: TfliteModel) -> None:
        self.model = model
        self.operator: TfliteOperator = model.operators[0]
        self.makers = {out: op for op in model.operators for out in op.outputs}
        self._nodes: list[NodeProto] = []
        self._node_names: dict[str, int] = {}
        self._constants: list[TensorProto] = []
        self._constant_names: dict[tuple[object, ...], str] = {}
        self._constant_bytes = 0
        self._names = _unique_names(model)
        self._taken = {name + suffix for name in self._names for suffix in ("", "_" + NCHW)}
        self._values: dict[tuple[int, str], str] = {
            (index, NHWC): self._names[index] for index in model.inputs
        }

    # -- what the file says ---------------------------------------------------------------

    def tensor(self, index: int) -> TfliteTensor:
        """The tensor behind an operand.

        Raises:
            ValueError: the operand was left out.
        """
        if index == ABSENT:
            raise ValueError("an operand is missing")
        return self.model.tensors[index]

    def rank(self, index: int) -> int:
        """The rank of a tensor."""
        return len(self.tensor(index).shape)

    def constant(self, index: int) -> npt.NDArray[Any] | None:
        """The values of a constant, float16 ones widened; None for an activation.

        Raises:
            SourceError: NaN or infinite values.
        """
        tensor = self.tensor(index)
        data = tensor.data
        maker = self.makers.get(index)
        if data is None and maker is not None and maker.kind == "DEQUANTIZE":
            data = self.tensor(maker.inputs[0]).data
        if data is None:
            return None
        if data.dtype == np.float16:
            data = data.astype(np.float32)
        if data.dtype.kind == "f":
            bad = int(np.count_nonzero(~np.isfinite(data)))
            if bad:
                raise SourceError(
                    f"{self.model.file_name}: weight {tensor.name!r} holds {bad} NaN or infinite"
                    f" values (of {data.size})",
                    hint="training diverged, or the file is damaged; take an earlier checkpoint",
                )
        return data

    def known(self, index: int) -> npt.NDArray[Any]:
        """The values of an operand that has to be a constant.

        Raises:
            SourceError: it is computed.
        """
        values = self.constant(index)
        if values is None:
            raise SourceError(
                f"{self.model.file_name}: {self.operator.sentence()}, needs the constant"
                f" {self.tensor(index).name!r}, but the model computes it",
                hint="export the model with a fixed input size",
            )
        return values

    # -- values ---------------------------------------------------------------------------

    def is_nchw(self, index: int) -> bool:
        """Whether a tensor was made in NCHW."""
        return (index, NCHW) in self._values

    def value(self, index: int, layout: str) -> str:
        """The ONNX name of a tensor in a layout; a Transpose is added where it is needed.

        Raises:
            ValueError: nothing made the tensor, or NCHW of another rank than 4.
        """
        found = self._values.get((index, layout))
        if found is not None:
            return found
        data = self.constant(index)
        if data is not None:
            # A constant of a lower rank broadcasts from behind: [C] is [1, 1, 1, C].
            if layout == NCHW and data.size > 1:
                data = data.reshape((1,) * (4 - data.ndim) + data.shape).transpose(TO_NCHW)
            return self.add_constant(data, (index, layout))
        other = self._values.get((index, NCHW if layout == NHWC else NHWC))
        if other is None:
            raise ValueError(f"tensor {index} is used before it is made")
        if self.rank(index) != 4:
            raise ValueError(f"tensor {index} of shape {self.tensor(index).shape} is not an image")
        _, height, width, channels = self.tensor(index).shape
        name = self._claim(index, layout)
        if height == width == 1:
            axes = (0, channels, 1, 1) if layout == NCHW else (0, 1, 1, channels)
            self._node("Reshape", [other, self.shape(axes)], [name])
        else:
            order = TO_NCHW if layout == NCHW else TO_NHWC
            self._node("Transpose", [other], [name], perm=order)
        return name

    def flat_value(self, index: int) -> str:
        """A tensor whose elements lie in the file's order, in whatever layout that is cheapest."""
        if self.is_nchw(index):
            _, height, width, channels = self.tensor(index).shape
            if channels == 1 or height == width == 1:
                return self._values[index, NCHW]
        return self.value(index, NHWC)

    def add_constant(self, data: npt.NDArray[Any], key: tuple[object, ...]) -> str:
        """An initializer; equal keys share one.

        Raises:
            SourceError: more than an ONNX file holds.
        """
        if key in self._constant_names:
            return self._constant_names[key]
        self._constant_bytes += data.nbytes
        if self._constant_bytes > CONSTANTS_LIMIT_BYTES:
            raise SourceError(
                f"{self.model.file_name}: its weights unfold to more than"
                f" {CONSTANTS_LIMIT_BYTES} bytes, which is what a model may measure"
            )
        name = f"constant_{len(self._constants)}"
        while name in self._taken:
            name += "_"
        # ``asarray`` with an order keeps rank 0, ``ascontiguousarray`` does not.
        self._constants.append(numpy_helper.from_array(np.asarray(data, order="C"), name))
        self._constant_names[key] = name
        return name

    def weight(self, index: int, order: Sequence[int]) -> str:
        """A constant with its axes in another order."""
        data = self.known(index)
        return self.add_constant(data.transpose(tuple(order)), (index, *order))

    def scalar(self, value: float) -> str:
        """A float32 of rank 0."""
        return self.add_constant(np.array(value, np.float32), ("scalar", value))

    def shape(self, sizes: Sequence[int]) -> str:
        """An int64 vector: a shape, axes, pads."""
        vector = [int(size) for size in sizes]
        return self.add_constant(np.array(vector, np.int64), ("shape", *vector))

    # -- nodes ----------------------------------------------------------------------------

    def put(
        self,
        index: int,
        layout: str,
        op_type: str,
        inputs: Sequence[str],
        *,
        activation: int = NONE,
        **attributes: Any,
    ) -> None:
        """Add the node that makes the tensor ``index``, its fused activation behind it.

        Raises:
            SourceError: an activation that is not converted.
            ValueError: the tensor was made before.
        """
        name = self._claim_new(index, layout)
        if activation == NONE:
            self._node(op_type, inputs, [name], **attributes)
            return
        inner = self.step(op_type, inputs, **attributes)
        if activation == RELU:
            self._node("Relu", [inner], [name])
        elif activation in _CLIPS:
            low, high = _CLIPS[activation]
            self._node("Clip", [inner, self.scalar(low), self.scalar(high)], [name])
        elif activation == TANH:
            self._node("Tanh", [inner], [name])
        else:
            raise SourceError(
                f"{self.model.file_name}: {self.operator.sentence()}, has the fused activation"
                f" {activation}, which is not converted"
            )

    def put_many(
        self,
        indices: Sequence[int],
        layout: str,
        op_type: str,
        inputs: Sequence[str],
        **attributes: Any,
    ) -> None:
        """Add the node that makes several tensors."""
        names = [self._claim_new(index, layout) for index in indices]
        self._node(op_type, inputs, names, **attributes)

    def step(self, op_type: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add a node in between; return the name of what it makes."""
        name = self._fresh(f"{self.operator.kind.lower()}_{self.operator.index}")
        self._node(op_type, inputs, [name], **attributes)
        return name

    def finish(self, opset: int, ir_version: int) -> onnx.ModelProto:
        """The model, without nodes and constants that no output needs.

        Raises:
            ValueError: an output that nothing makes.
        """
        outputs = []
        for index in self.model.outputs:
            self.operator = self.makers.get(index, self.operator)
            name = self.value(index, NHWC)
            if name != self._names[index] or index in self.model.inputs or name in outputs:
                # A graph's output needs a name of its own.
                source, name = name, self._fresh(self._names[index])
                self._node("Identity", [source], [name])
            outputs.append(name)
        needed, kept = set(outputs), []
        for node in reversed(self._nodes):
            if needed.intersection(node.output):
                needed.update(node.input)
                kept.append(node)
        graph = helper.make_graph(
            kept[::-1],
            "model",
            [self._info(index, self._names[index]) for index in self.model.inputs],
            [self._info(*pair) for pair in zip(self.model.outputs, outputs, strict=True)],
            [constant for constant in self._constants if constant.name in needed],
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", opset)],
            ir_version=ir_version,
            producer_name="edge-compile",
        )
        note_widened(model, sum(one.dtype == "FLOAT16" for one in self.model.tensors))
        return model

    def _info(self, index: int, name: str) -> onnx.ValueInfoProto:
        tensor = self.tensor(index)
        if tensor.dtype not in _ONNX_TYPES:
            raise SourceError(
                f"{self.model.file_name}: the input or output {tensor.name!r} is"
                f" {tensor.dtype.lower()}; expected float32",
                hint="export the float32 model",
            )
        sizes: list[int | str] = [
            ("batch" if axis == 0 else f"free_{axis}") if free else size
            for axis, (size, free) in enumerate(zip(tensor.shape, tensor.free, strict=True))
        ]
        return helper.make_tensor_value_info(name, _ONNX_TYPES[tensor.dtype], sizes)

    def _claim_new(self, index: int, layout: str) -> str:
        if (index, NHWC) in self._values or (index, NCHW) in self._values:
            raise ValueError(f"tensor {index} is made twice")
        return self._claim(index, layout)

    def _claim(self, index: int, layout: str) -> str:
        name = self._names[index] + ("" if layout == NHWC else "_" + NCHW)
        self._values[index, layout] = name
        return name

    def _fresh(self, stem: str) -> str:
        name, number = stem, 1
        while name in self._taken:
            number += 1
            name = f"{stem}_{number}"
        self._taken.add(name)
        return name

    def _node(
        self, op_type: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        # Named after the operator's place in the file, so that reports can point at it.
        stem = f"{self.operator.kind.lower()}_{self.operator.index}/{op_type}"
        count = self._node_names[stem] = self._node_names.get(stem, 0) + 1
        name = stem if count == 1 else f"{stem}_{count}"
        self._nodes.append(helper.make_node(op_type, inputs, outputs, name=name, **attributes))


def _unique_names(model: TfliteModel) -> list[str]:
    """A name for every tensor that stays its own with a layout's suffix behind it."""
    taken: set[str] = set()
    names = []
    for tensor in model.tensors:
        name = stem = tensor.name or f"tensor_{tensor.index}"
        if name in taken or name + "_" + NCHW in taken:
            name = f"{stem}_{tensor.index}"
        while name in taken or name + "_" + NCHW in taken:
            name += "_"
        taken |= {name, name + "_" + NCHW}
        names.append(name)
    return names
