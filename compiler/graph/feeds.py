"""What a graph is fed: its inputs by name, from rows that hold all of them."""

from __future__ import annotations

from onnx import GraphProto

from edge_contract.model import TensorSpec
from edge_runtime.tensors import Tensors


def input_specs(graph: GraphProto) -> list[TensorSpec]:
    """The inputs that no initializer stands for, float32 all of them."""
    constants = {tensor.name for tensor in graph.initializer}
    return [
        TensorSpec(
            name=value.name,
            dtype="float32",
            shape=[
                axis.dim_value if axis.HasField("dim_value") and axis.dim_value > 0 else None
                for axis in value.type.tensor_type.shape.dim
            ],
        )
        for value in graph.input
        if value.name not in constants
    ]


def given_to(graph: GraphProto) -> Tensors:
    """Turns rows of samples into what ``graph`` is fed."""
    return Tensors(input_specs(graph))
