"""The tensors of a .tflite file under emission: of one ONNX tensor up to four forms.

A tensor may be needed in float32 and in int8, and, at rank 4, in ONNX's order of axes and as NHWC,
which is what TensorFlow Lite's kernels for images want. What is missing is made on demand by
QUANTIZE, DEQUANTIZE, TRANSPOSE, or RESHAPE where no element moves, and remembered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, numpy_helper

from compiler.errors import CompileError
from compiler.plan.plan import Grid, Plan
from compiler.tflite.file import Quantisation, TfliteFile

TO_NHWC = (0, 2, 3, 1)
TO_NCHW = (0, 3, 1, 2)

Form = tuple[str, bool, bool]
"""ONNX name, whether int8, whether NHWC."""


class PlannedTensors:
    """What of a plan's graph stands in the file so far.

    Args:
        plan: the plan.
        shapes: every tensor of its graph -> its static shape, batch 1.
    """

    def __init__(self, plan: Plan, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.plan = plan
        self.shapes = shapes
        self.file = TfliteFile()
        self.written_as = _written_as(plan)
        self._constants = {tensor.name: tensor for tensor in plan.model.graph.initializer}
        self._made: dict[Form, int] = {}
        self._copies = 0

    # -- the graph --------------------------------------------------------------------------

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an ONNX tensor, batch 1."""
        return self.shapes[name]

    def constant(self, name: str) -> npt.NDArray[Any] | None:
        """The values of an initializer, or None for what is computed."""
        tensor = self._constants.get(name)
        return None if tensor is None else numpy_helper.to_array(tensor)

    def known(self, node: NodeProto, place: int) -> npt.NDArray[Any]:
        """The values of an operand that has to be a constant.

        Raises:
            CompileError: it is computed.
        """
        found = self.constant(node.input[place])
        if found is None:
            raise CompileError(
                f"{node.op_type} {node.name!r} computes its operand {place}, which TensorFlow Lite"
                " needs as a constant",
                hint="choose an onnxruntime target, or export the model with static shapes",
            )
        return found

    def is_int8(self, node: NodeProto) -> bool:
        """Whether the plan runs a node in int8."""
        return node.name in self.plan.layers or node.name in self.plan.passing

    def grid(self, name: str) -> Grid:
        """The grid of an int8 tensor."""
        return self.plan.grids[name]

    # -- values -----------------------------------------------------------------------------

    def prefers_nhwc(self, *names: str) -> bool:
        """Whether all of these are images (or constants) and one was made as NHWC."""
        computed = [name for name in names if name and name not in self._constants]
        return all(len(self.shape(name)) == 4 for name in computed) and any(
            (name, int8, True) in self._made for name in computed for int8 in (False, True)
        )

    def get(self, name: str, *, int8: bool, nhwc: bool) -> int:
        """A tensor in one of its forms, made from another form where need be.

        Raises:
            CompileError: nothing made it, which is a plan that contradicts its graph.
        """
        found = self._made.get((name, int8, nhwc))
        if found is not None:
            return found
        if name in self._constants:
            return self._add_constant(name, nhwc)
        for source in ((name, int8, not nhwc), (name, not int8, nhwc), (name, not int8, not nhwc)):
            if source not in self._made:
                continue
            if source[2] != nhwc:
                self._move(source, nhwc)
            if source[1] != int8:
                self._convert(name, int8, nhwc)
            return self._made[name, int8, nhwc]
        raise CompileError(f"the plan's tensor {name!r} is used before anything makes it")

    def put(
        self,
        node: NodeProto,
        kind: str,
        version: int,
        inputs: Sequence[int],
        *,
        int8: bool,
        nhwc: bool,
        grid: Grid | None = None,
        table: str = "",
        **options: Any,
    ) -> None:
        """Add the operator that makes the first output of ``node``.

        Args:
            grid: the grid that the kernel can only write on; where the plan has another one, a
                QUANTIZE from int8 to int8 follows.
        """
        name = self.written_as.get(node.output[0], node.output[0])
        if int8 and grid is not None and grid != self.grid(name):
            step = self.add_like(name, int8=True, nhwc=nhwc, grid=grid)
            self.file.add_operator(kind, version, inputs, [step], table, **options)
            target = self._new(name, int8, nhwc)
            self.file.add_operator("QUANTIZE", 2, [step], [target], "QuantizeOptions")
            return
        target = self._new(name, int8, nhwc)
        self.file.add_operator(kind, version, inputs, [target], table, **options)

    def step(
        self,
        kind: str,
        version: int,
        inputs: Sequence[int],
        output: int,
        table: str = "",
        **options: Any,
    ) -> int:
        """Add an operator in between; return the tensor ``output`` that it makes."""
        self.file.add_operator(kind, version, inputs, [output], table, **options)
        return output

    def add_like(
        self,
        name: str,
        *,
        int8: bool,
        nhwc: bool,
        grid: Grid | None = None,
        shape: Sequence[int] | None = None,
    ) -> int:
        """A tensor in between, shaped like an ONNX tensor unless said otherwise."""
        self._copies += 1
        sizes = self._sizes(name, nhwc) if shape is None else tuple(shape)
        scale = _one(grid or self.grid(name)) if int8 else None
        dtype = "int8" if int8 else "float32"
        return self.file.add_tensor(f"{name}_{self._copies}", sizes, dtype, scale)

    def alias(self, node: NodeProto, *, source: Form, nhwc: bool) -> None:
        """The first output of ``node`` is what ``source`` is: no element moves."""
        name = self.written_as.get(node.output[0], node.output[0])
        self._made[name, source[1], nhwc] = self.get(source[0], int8=source[1], nhwc=source[2])

    def add_input(self, name: str) -> int:
        """The file's float32 input."""
        return self._new(name, False, False)

    def integers(self, values: Sequence[int] | npt.NDArray[Any]) -> int:
        """An int32 constant: a shape, pads, axes."""
        array = np.asarray(values, np.int32)
        return self.file.add_tensor("integers", array.shape, "int32", None, array.tobytes())

    def floats(self, values: npt.NDArray[Any] | float, name: str = "floats") -> int:
        """A float32 constant."""
        array = np.asarray(values, np.float32)
        return self.file.add_tensor(name, array.shape, "float32", None, array.tobytes())

    def _new(self, name: str, int8: bool, nhwc: bool) -> int:
        scale = _one(self.grid(name)) if int8 else None
        label = name + ("_int8" if int8 else "") + ("_nhwc" if nhwc else "")
        sizes = self._sizes(name, nhwc)
        made = self.file.add_tensor(label, sizes, "int8" if int8 else "float32", scale)
        self._made[name, int8, nhwc] = made
        return made

    def _sizes(self, name: str, nhwc: bool) -> tuple[int, ...]:
        sizes = self.shape(name)
        return tuple(sizes[axis] for axis in TO_NHWC) if nhwc else sizes

    def _move(self, source: Form, nhwc: bool) -> None:
        name, int8, _ = source
        given, moved = self._made[source], self._new(name, int8, nhwc)
        _, channels, height, width = self.shape(name)
        if channels == 1 or height == width == 1:
            sizes = list(self._sizes(name, nhwc))
            inputs = [given, self.integers(sizes)]
            self.file.add_operator("RESHAPE", 1, inputs, [moved], "ReshapeOptions", newShape=sizes)
            return
        inputs = [given, self.integers(TO_NHWC if nhwc else TO_NCHW)]
        self.file.add_operator("TRANSPOSE", 2 if int8 else 1, inputs, [moved], "TransposeOptions")

    def _convert(self, name: str, int8: bool, nhwc: bool) -> None:
        given, made = self._made[name, not int8, nhwc], self._new(name, int8, nhwc)
        if int8:
            self.file.add_operator("QUANTIZE", 1, [given], [made], "QuantizeOptions")
        else:
            self.file.add_operator("DEQUANTIZE", 2, [given], [made], "DequantizeOptions")

    def _add_constant(self, name: str, nhwc: bool) -> int:
        """A constant operand of a float operator; lower ranks broadcast from behind."""
        values = numpy_helper.to_array(self._constants[name])
        if values.dtype != np.float32:
            raise CompileError(f"the constant {name!r} is {values.dtype}; expected float32")
        if nhwc and values.size > 1:
            values = values.reshape((1,) * (4 - values.ndim) + values.shape).transpose(TO_NHWC)
        made = self.floats(np.ascontiguousarray(values), name)
        self._made[name, False, nhwc] = made
        return made


def static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor for one frame.

    Raises:
        CompileError: a size that is known only at run time.
    """
    fixed = onnx.ModelProto.FromString(model.SerializeToString())
    del fixed.graph.value_info[:]
    for value in (*fixed.graph.input, *fixed.graph.output):
        axes = value.type.tensor_type.shape.dim
        if axes and axes[0].dim_value <= 0:
            axes[0].dim_value = 1
    try:
        fixed = onnx.shape_inference.infer_shapes(fixed, data_prop=True, strict_mode=True)
    except onnx.shape_inference.InferenceError as error:
        first = str(error).strip().splitlines()[0][:300]
        raise CompileError(f"the plan's shapes contradict each other: {first}") from error
    shapes = {tensor.name: tuple(tensor.dims) for tensor in fixed.graph.initializer}
    for value in (*fixed.graph.input, *fixed.graph.output, *fixed.graph.value_info):
        axes = value.type.tensor_type.shape.dim
        known = value.type.tensor_type.HasField("shape") and all(
            axis.HasField("dim_value") for axis in axes
        )
        if known:
            shapes[value.name] = tuple(axis.dim_value for axis in axes)
    for node in fixed.graph.node:
        unknown = [name for name in (*node.input, *node.output) if name and name not in shapes]
        if unknown:
            raise CompileError(
                f"{node.op_type} {node.name!r} has a tensor {unknown[0]!r} whose size is known"
                " only at run time; TensorFlow Lite files are written with static shapes",
                hint="export the model with a fixed input size, or choose an onnxruntime target",
            )
    return shapes


def element_type(model: onnx.ModelProto, name: str) -> int:
    """The element type of an input or output of the graph."""
    for value in (*model.graph.input, *model.graph.output):
        if value.name == name:
            return int(value.type.tensor_type.elem_type)
    return int(TensorProto.UNDEFINED)


def _one(grid: Grid) -> Quantisation:
    return Quantisation(np.array([grid.scale], np.float32), grid.zero_point)


def _written_as(plan: Plan) -> dict[str, str]:
    """What a node makes -> the tensor behind the Relu and Clip that saturation performs."""
    found: dict[str, str] = {}
    for node in reversed(plan.model.graph.node):
        if node.name in plan.absorbed:
            found[node.input[0]] = found.get(node.output[0], node.output[0])
    return found
