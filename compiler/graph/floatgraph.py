"""The float graph that everything after works on: one form, whatever the exporter wrote.

Functions are inlined, the opset is raised to where per-channel scales exist, constants are
initializers, and nodes and tensors get short names of their own (``Conv_3``, ``t7``, ``w12``):
exporters write names of several hundred bytes, which would weigh as much as the int8 weights.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnx.inliner
import onnx.version_converter
import onnxruntime as ort
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto

from compiler.errors import OutputError, SourceError
from compiler.graph.feeds import given_to
from compiler.graph.source import Source
from edge_contract.model import TensorSpec
from edge_runtime.onnx_session import session_options
from edge_runtime.tensors import Tensors

OPSET_PER_CHANNEL = 13
"""QuantizeLinear and DequantizeLinear take an axis from here on."""


@dataclass(frozen=True)
class FloatGraph:
    """The source in one form.

    model: as the source computes it.
    prepared: the same with constants and batch norms folded; this is what is quantised.
    names: node name here -> node name in the source file.
    batch_is_free: of every input; else it is 1.
    """

    model: ModelProto
    prepared: ModelProto
    names: dict[str, str]
    batch_is_free: bool

    @cached_property
    def given(self) -> Tensors:
        """The inputs: splits rows of samples into them."""
        return given_to(self.model.graph)

    @property
    def input_name(self) -> str:
        """The first input."""
        return self.given.names[0]

    @property
    def row_shape(self) -> tuple[int, ...]:
        """The shape of one sample, without the batch axis; all inputs in one vector if several."""
        return self.given.row_shape


def normalise(source: Source) -> FloatGraph:
    """Bring the source into the one form.

    Raises:
        SourceError: it cannot be raised to opset 13, or onnxruntime refuses it.
    """
    model = ModelProto.FromString(source.model.SerializeToString())
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    opset = max(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx"))
    if opset < OPSET_PER_CHANNEL:
        try:
            model = onnx.version_converter.convert_version(model, OPSET_PER_CHANNEL)
        except (RuntimeError, ValueError) as error:
            raise SourceError(
                f"the model is of opset {opset} and cannot be raised to {OPSET_PER_CHANNEL}, which"
                f" per-channel scales need: {str(error).splitlines()[0][:200]}",
                hint="export it again with opset_version=17",
            ) from error
    _constants_to_initializers(model.graph)
    names = _shorten_names(model.graph)
    model.ir_version = max(model.ir_version, 7)
    _forget_texts(model)
    return FloatGraph(
        model=model,
        prepared=_prepare(model, source.fixed_batch),
        names=names,
        batch_is_free=source.batch_is_free,
    )


def output_specs(graph: FloatGraph, example: npt.NDArray[np.float32]) -> list[TensorSpec]:
    """What the model answers one frame with, read off a run, so dynamic shapes are known, too.

    Args:
        graph: the float graph.
        example: one frame, float32 ``[1, ...]``.

    Raises:
        SourceError: it fails on one frame, or gives no values.
    """
    names = [value.name for value in graph.model.graph.output]
    try:
        session = ort.InferenceSession(
            graph.model.SerializeToString(),
            session_options("float32"),
            providers=["CPUExecutionProvider"],
        )
        arrays = session.run(names, graph.given.split(example))
    # onnxruntime raises a family of types without a common base, RuntimeError among them.
    except Exception as error:
        raise SourceError(
            f"the model fails on one frame: {first_line(error)}",
            hint="export it with batch 1 or a free batch axis",
        ) from error
    specs = []
    for name, array in zip(names, arrays, strict=True):
        if not array.size:
            raise SourceError(
                f"the output {name!r} of one frame has shape {list(array.shape)}: no values",
                hint="devices need answers of one fixed size; pad them in the model",
            )
        shape: list[int | None] = list(array.shape)
        if shape and shape[0] == 1 and graph.batch_is_free:
            shape[0] = None
        specs.append(TensorSpec(name=name, dtype=str(array.dtype), shape=shape))
    return specs


def first_line(error: BaseException) -> str:
    """What an onnxruntime error says, short enough for a message."""
    lines = str(error).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__


def _prepare(model: ModelProto, fixed_batch: int | None) -> ModelProto:
    """Fold constants and batch norms with onnxruntime's target-independent optimisations."""
    with tempfile.TemporaryDirectory(prefix="edge-compile-") as scratch:
        path = Path(scratch) / "prepared.onnx"
        options = session_options("float32")
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        try:
            ort.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        # onnxruntime raises a family of types without a common base, RuntimeError among them.
        except Exception as error:
            _require_room(path, model.ByteSize())
            raise SourceError(
                f"onnxruntime {ort.__version__} cannot run this model: {first_line(error)}",
                hint=""
                if fixed_batch is None
                else f"devices answer one frame at a time, and the file fixes the batch at"
                f" {fixed_batch}: export it with batch 1 or a free batch axis",
            ) from error
        prepared = onnx.load(path)
    used = {node.domain for node in prepared.graph.node} | {""}
    opsets = [entry for entry in prepared.opset_import if entry.domain in used]
    del prepared.opset_import[:]
    prepared.opset_import.extend(opsets)
    try:
        return onnx.shape_inference.infer_shapes(prepared, data_prop=True)
    except onnx.shape_inference.InferenceError as error:
        raise SourceError(
            f"the model's shapes contradict each other: {first_line(error)}"
        ) from error


def _require_room(path: Path, size_bytes: int) -> None:
    """onnxruntime blames the model when it cannot write; a file as large tells whose fault it is.

    Raises:
        OutputError: there is no room for temporary files.
    """
    try:
        with path.open("wb") as file:
            for _ in range(0, size_bytes, 1 << 20):
                file.write(bytes(min(size_bytes, 1 << 20)))
    except OSError as error:
        raise OutputError(
            f"cannot write {size_bytes} bytes of temporary files to {path.parent.parent}:"
            f" {error.strerror}",
            hint="free some space, or set TMPDIR to a folder that has it",
        ) from error


def _constants_to_initializers(graph: GraphProto) -> None:
    kept: list[NodeProto] = []
    for node in graph.node:
        values = [a.t for a in node.attribute if a.name == "value"]
        if node.op_type == "Constant" and node.domain in ("", "ai.onnx") and values:
            tensor = TensorProto.FromString(values[0].SerializeToString())
            tensor.name = node.output[0]
            graph.initializer.append(tensor)
        else:
            kept.append(NodeProto.FromString(node.SerializeToString()))
    del graph.node[:]
    graph.node.extend(kept)


def _shorten_names(graph: GraphProto) -> dict[str, str]:
    """Rename every inner node and tensor; return node name -> the exporter's node name."""
    fixed = {value.name for value in (*graph.input, *graph.output)} | {""}
    tensors: dict[str, str] = {name: name for name in fixed}
    nodes: dict[str, str] = {}

    def new_name(prefix: str) -> str:
        name = f"{prefix}{len(tensors)}"
        while name in fixed:  # the exporter may have called its input "t7"
            name += "_"
        return name

    def visit(inner: GraphProto) -> None:
        for tensor in inner.initializer:
            tensors.setdefault(tensor.name, new_name("w"))
            tensor.name = tensors[tensor.name]
        for value in inner.input:
            tensors.setdefault(value.name, new_name("t"))
            value.name = tensors[value.name]
        for node in inner.node:
            short = f"{node.op_type}_{len(nodes)}"
            nodes[short] = node.name or short
            node.name = short
            for output in node.output:
                tensors.setdefault(output, new_name("t"))
            for attribute in node.attribute:
                if attribute.type == AttributeProto.GRAPH:
                    visit(attribute.g)
            node.input[:] = [tensors[name] for name in node.input]
            node.output[:] = [tensors[name] for name in node.output]
        for value in inner.output:
            value.name = tensors[value.name]
        # Shapes are inferred anew; the exporter's records carry the old names.
        del inner.value_info[:]
        del inner.quantization_annotation[:]

    visit(graph)
    return nodes


def _forget_texts(model: ModelProto) -> None:
    """Drop documentation strings: exporters put source paths of their machine there."""
    model.doc_string = ""
    del model.metadata_props[:]
    model.graph.doc_string = ""
    model.graph.name = "model"
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""


def constant_tensors(graph: GraphProto) -> set[str]:
    """Names of tensors that do not depend on the input."""
    known = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if all(name in known or not name for name in node.input):
            known |= set(node.output)
    return known
