"""Write small .tflite files through the schema's object API, as a converter would."""

from __future__ import annotations

from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

TYPES = {"float32": 0, "float16": 1, "int32": 2, "uint8": 3, "int64": 4, "bool": 6, "int8": 9}
SAME, VALID = 0, 1
RELU, RELU6 = 1, 3


class TfliteWriter:
    """One subgraph under construction. Tensors are numbers; outputs get their shape from you."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.graph = schema.SubGraphT()
        self.graph.tensors, self.graph.operators = [], []
        self.graph.inputs, self.graph.outputs = [], []
        self.buffers = [schema.BufferT()]
        self.codes: list[Any] = []

    def tensor(self, *shape: int, dtype: str = "float32", batch_is_free: bool = False) -> int:
        tensor = schema.TensorT()
        tensor.name = f"tensor_{len(self.graph.tensors)}"
        tensor.shape, tensor.type, tensor.buffer = list(shape), TYPES[dtype], 0
        if batch_is_free:
            tensor.shapeSignature = [-1, *shape[1:]]
        self.graph.tensors.append(tensor)
        return len(self.graph.tensors) - 1

    def input(self, *shape: int, batch_is_free: bool = True) -> int:
        self.graph.inputs.append(self.tensor(*shape, batch_is_free=batch_is_free))
        return self.graph.inputs[-1]

    def constant(self, values: Any, dtype: str = "float32") -> int:
        array = np.asarray(values, dtype)
        index = self.tensor(*array.shape, dtype=dtype)
        buffer = schema.BufferT()
        buffer.data = np.frombuffer(array.tobytes(), np.uint8)
        self.buffers.append(buffer)
        self.graph.tensors[index].buffer = len(self.buffers) - 1
        return index

    def weights(self, *shape: int) -> int:
        """Random weights whose products keep about the size of their inputs."""
        return self.constant(self.rng.normal(0, np.prod(shape[1:]) ** -0.5, shape))

    def op(
        self, kind: str, inputs: list[int], *outputs: int, custom: str = "", **options: Any
    ) -> int:
        """Add an operator; ``options`` are fields of its options, ``table`` names their class."""
        code = schema.OperatorCodeT()
        number = getattr(schema.BuiltinOperator, kind)
        code.builtinCode, code.deprecatedBuiltinCode = number, min(number, 127)
        code.customCode, code.version = custom or None, 1
        self.codes.append(code)
        operator = schema.OperatorT()
        operator.opcodeIndex = len(self.codes) - 1
        operator.inputs, operator.outputs = list(inputs), list(outputs)
        table = options.pop("table", None)
        if table:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, table + "T")()
            for field, value in options.items():
                assert hasattr(operator.builtinOptions, field), field
                setattr(operator.builtinOptions, field, value)
        self.graph.operators.append(operator)
        return outputs[0]

    def conv(
        self,
        source: int,
        weights: int,
        bias: int,
        *shape: int,
        stride: int = 1,
        padding: int = SAME,
        activation: int = 0,
        dilation: int = 1,
        depthwise: bool = False,
    ) -> int:
        kind = "DepthwiseConv2DOptions" if depthwise else "Conv2DOptions"
        return self.op(
            "DEPTHWISE_CONV_2D" if depthwise else "CONV_2D",
            [source, weights, bias],
            self.tensor(*shape, batch_is_free=True),
            table=kind,
            padding=padding,
            strideH=stride,
            strideW=stride,
            fusedActivationFunction=activation,
            dilationHFactor=dilation,
            dilationWFactor=dilation,
            **({"depthMultiplier": 1} if depthwise else {}),
        )

    def finish(self, *outputs: int, change: Any = None) -> bytes:
        """The file. ``change`` may edit the whole ``ModelT`` before it is packed."""
        model = schema.ModelT()
        model.version, model.description = 3, "made by a test"
        self.graph.outputs = list(outputs)
        model.subgraphs, model.operatorCodes, model.buffers = (
            [self.graph],
            self.codes,
            self.buffers,
        )
        if change:
            change(model)
        builder = flatbuffers.Builder(1024)
        builder.Finish(model.Pack(builder), b"TFL3")
        return bytes(builder.Output())
