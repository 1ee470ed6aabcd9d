"""How much memory a model needs at once: weights, and the activations alive at the worst moment.

An estimate. Nodes are taken in the file's order, a tensor lives from the node that makes it to
the last that reads it, and what only moves or cuts values costs nothing of its own. The runtime's
own code and its scratch buffers come on top; onnxruntime takes about 30 to 60 MB for itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
from onnx import ModelProto

from compiler.errors import SourceError
from compiler.graph.feeds import given_to
from compiler.graph.floatgraph import constant_tensors, first_line
from compiler.graph.layers import inner_tensors, with_outputs
from edge_runtime.onnx_session import session_options

_IN_PLACE = ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Identity", "Relu", "Clip")
"""Their output lies where their input lay."""


@dataclass(frozen=True)
class Memory:
    """Bytes for one frame.

    weights_bytes: of the model file.
    activations_bytes: alive at the worst moment.
    """

    weights_bytes: int
    activations_bytes: int

    @property
    def total_bytes(self) -> int:
        """Both."""
        return self.weights_bytes + self.activations_bytes


def tensor_sizes(model: ModelProto, example: npt.NDArray[np.float32]) -> dict[str, int]:
    """Elements of each activation tensor for one frame, the input included.

    Args:
        model: a float graph.
        example: a model input, float32 ``[1, ...]``; sizes are read off a run.

    Raises:
        SourceError: the runtime fails.
    """
    constants = constant_tensors(model.graph)
    names = [name for name in inner_tensors(model.graph) if name not in constants]
    feeds = given_to(model.graph).split(example)
    try:
        session = ort.InferenceSession(
            with_outputs(model, names).SerializeToString(),
            session_options("float32"),
            providers=["CPUExecutionProvider"],
        )
        arrays = session.run(names, feeds)
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise SourceError(f"the model fails on one frame: {first_line(error)}") from error
    found = {name: int(array.size) for name, array in feeds.items()}
    found.update({name: int(np.size(a)) for name, a in zip(names, arrays, strict=True)})
    return found


def peak_bytes(model: ModelProto, sizes: Mapping[str, int], int8: Set[str]) -> int:
    """Bytes of activations alive at the worst moment.

    Args:
        model: the graph that ``sizes`` are of.
        sizes: elements by tensor; tensors that are not there are constants.
        int8: tensors of one byte an element; all others have four.
    """
    place: dict[str, str] = {}
    for node in model.graph.node:
        source = node.input[0] if node.input else ""
        if node.op_type in _IN_PLACE and source in sizes and len(node.output) == 1:
            place[node.output[0]] = place.get(source, source)

    def held(name: str) -> str:
        return place.get(name, name)

    entries = {value.name for value in model.graph.input}
    bytes_of: dict[str, int] = {}
    for name, elements in sizes.items():
        # A layer whose Relu is int8 writes int8; the input comes in float and is then rounded.
        cost = elements * (1 if name in int8 else 4)
        if name in entries and name in int8:
            cost += 4 * elements
        bytes_of[held(name)] = min(bytes_of.get(held(name), cost), cost)
    ends = {held(value.name): len(model.graph.node) for value in model.graph.output}
    for step, node in enumerate(model.graph.node):
        for name in node.input:
            ends[held(name)] = max(ends.get(held(name), 0), step)
    alive = {held(value.name) for value in model.graph.input if value.name in sizes}
    peak = 0
    for step, node in enumerate(model.graph.node):
        alive |= {held(name) for name in node.output if name in sizes}
        peak = max(peak, sum(bytes_of.get(name, 0) for name in alive))
        alive = {name for name in alive if ends.get(name, -1) > step}
    return peak
