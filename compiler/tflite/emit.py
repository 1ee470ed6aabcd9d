"""Write a quantisation plan as an int8 .tflite file.

The integers are the plan's: int8 weights with a scale a channel, int8 activations with one scale
and zero point a tensor, int32 biases of scale ``input scale * weight scale``. Nothing is rounded
or chosen here. Input and output stay float32, with QUANTIZE and DEQUANTIZE behind and before
them, and have the names and shapes of the ONNX graph: a device feeds every variant the same.

Where a kernel of TensorFlow Lite can only write on the grid of its input (pools, Reshape) or only
read one grid (Concat), a QUANTIZE from int8 to int8 bridges to the plan's grid.
"""

from __future__ import annotations

from collections.abc import Callable

from onnx import GraphProto, NodeProto, TensorProto

from compiler.errors import CompileError
from compiler.plan.plan import Plan
from compiler.tflite import emit_layers, emit_others, emit_parts
from compiler.tflite.lift import lift_sequences
from compiler.tflite.tensors import PlannedTensors, element_type, static_shapes

Emitter = Callable[[PlannedTensors, NodeProto], None]

EMITTERS: dict[str, Emitter] = {
    "Conv": emit_layers.emit_conv,
    "Gemm": emit_layers.emit_dense,
    "MatMul": emit_layers.emit_dense,
    "MaxPool": emit_layers.emit_pool,
    "AveragePool": emit_layers.emit_pool,
    "GlobalAveragePool": emit_layers.emit_global_average,
    **dict.fromkeys(emit_others.ELEMENTWISE, emit_others.emit_elementwise),
    "BatchNormalization": emit_others.emit_batch_norm,
    "Clip": emit_others.emit_clip,
    "HardSigmoid": emit_others.emit_hard_sigmoid,
    "Concat": emit_others.emit_concat,
    "Reshape": emit_others.emit_reshape,
    "Flatten": emit_others.emit_reshape,
    "Squeeze": emit_others.emit_reshape,
    "Unsqueeze": emit_others.emit_reshape,
    "Transpose": emit_others.emit_transpose,
    "Identity": emit_others.emit_identity,
    "Dropout": emit_others.emit_identity,
    "Softmax": emit_others.emit_softmax,
    "LogSoftmax": emit_others.emit_softmax,
    "ReduceMean": emit_others.emit_mean,
    "Pad": emit_others.emit_pad,
    "Resize": emit_parts.emit_resize,
    "Slice": emit_parts.emit_slice,
    "Split": emit_parts.emit_split,
}
"""Every ONNX operator that can be written."""


def emit_tflite(plan: Plan) -> bytes:
    """The plan as deterministic bytes of a .tflite file for one frame (batch 1).

    Loads in tflite-runtime 2.14 and newer, and in ai-edge-litert.

    Raises:
        CompileError: operators that cannot be written (all are listed), or shapes known only at
            run time.
        ValueError: a plan of symmetric activations.
    """
    if plan.activations != "asymmetric":
        raise ValueError(f"a plan with {plan.activations} activations cannot become .tflite")
    _refuse_missing(plan)
    plan = lift_sequences(plan, static_shapes(plan.model))
    graph = plan.model.graph
    constants = {tensor.name for tensor in graph.initializer}
    inputs = [value.name for value in graph.input if value.name not in constants]
    outputs = [value.name for value in graph.output]
    for name in (*inputs, *outputs):
        if element_type(plan.model, name) != TensorProto.FLOAT:
            raise CompileError(f"the input or output {name!r} is not float32")
    tensors = PlannedTensors(plan, static_shapes(plan.model))
    feeds = {name: tensors.add_input(name) for name in inputs}
    for node in needed_nodes(graph):
        if node.name not in plan.absorbed:
            EMITTERS[node.op_type](tensors, node)
    scores = {name: tensors.get(name, int8=False, nhwc=False) for name in outputs}
    return tensors.file.finish(feeds, scores)


def needed_nodes(graph: GraphProto) -> list[NodeProto]:
    """The nodes that an output depends on, in order.

    What only computes the new shape of a Reshape is left out: for one frame that shape is known.
    Exporters write such computations for a free batch.
    """
    needed = {value.name for value in graph.output}
    kept = []
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input[:1] if node.op_type == "Reshape" else node.input)
            kept.append(node)
    return kept[::-1]


def _refuse_missing(plan: Plan) -> None:
    missing: dict[str, list[str]] = {}
    for node in needed_nodes(plan.model.graph):
        if node.op_type not in EMITTERS or node.domain not in ("", "ai.onnx"):
            missing.setdefault(node.op_type, []).append(node.name)
    if missing:
        shown = "; ".join(f"{kind} ({', '.join(names[:4])})" for kind, names in missing.items())
        raise CompileError(
            f"operators that cannot be written to .tflite: {shown}",
            hint="choose an onnxruntime target, or replace them in the model",
        )
