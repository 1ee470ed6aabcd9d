"""Read a model file and hand out a float ONNX classifier that is known to be sound.

Everything a stranger's file can get wrong is found here, before any time is spent: not ONNX,
truncated, custom operators, cycles, int8 already, weights that are not numbers, inputs and
outputs that do not fit.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto

from compiler.errors import SourceError
from compiler.estimator import load_estimator
from compiler.foreign import EXPORT_DOCS, is_skops, refuse_directory, refuse_foreign
from compiler.graphcheck import check_graph
from compiler.labeloutput import drop_label_output
from compiler.tflite.load import load_tflite
from edge_contract.errors import ExitCode

MODEL_LIMIT_BYTES = 2 * 1024**3 - 1
"""What a protobuf message may measure."""

OPSET_MIN = 11

_EXPORT_HINT = "export the trained model to ONNX, float32, and give that file"


@dataclass(frozen=True)
class Source:
    """A checked float classifier.

    digest: of the file, with its external data files after it in the order of their names.
    size_bytes: of the same files.
    input_shape: without the batch axis; all static.
    """

    model: ModelProto
    digest: str
    size_bytes: int
    input_name: str
    input_shape: tuple[int, ...]
    output_name: str
    batch_is_free: bool


def load_source(path: Path) -> Source:
    """Read and check the model at ``path``.

    A batch axis that is fixed to another number than 1 is set to 1, because a device answers
    one frame at a time; the runtime then has the last word.

    Raises:
        SourceError: unreadable, or not a model that can be quantised; says which and why.
    """
    data = _read(path)
    model = _parse(path, data)
    external = external_files(path, model)
    check_graph(path.name, model)
    drop_label_output(model)
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if len(inputs) != 1 or len(graph.output) != 1:
        raise SourceError(
            f"{path.name}: expected one input and one output, got inputs"
            f" {[value.name for value in inputs]} and outputs"
            f" {[value.name for value in graph.output]}",
            hint="export the model with its scores as the only output",
        )
    (only_input,), (only_output,) = inputs, graph.output
    _require_float(path, "input", only_input)
    _require_float(path, "output", only_output)
    batch, shape = _static_shape(path, only_input)
    if batch not in (None, 1):
        for value in (only_input, only_output):
            axes = value.type.tensor_type.shape.dim
            if axes and axes[0].dim_value == batch:
                axes[0].dim_value = 1
        # Shapes recorded for the old batch would contradict the new one.
        del graph.value_info[:]
    del graph.input[:]
    graph.input.append(only_input)
    state = hashlib.sha256(data)
    for file in external:
        state.update(file.read_bytes())
    return Source(
        model=model,
        digest="sha256:" + state.hexdigest(),
        size_bytes=len(data) + sum(file.stat().st_size for file in external),
        input_name=only_input.name,
        input_shape=shape,
        output_name=only_output.name,
        batch_is_free=batch is None,
    )


def _read(path: Path) -> bytes:
    if path.is_dir():
        refuse_directory(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise SourceError(f"{path} is no regular file; expected a model file")
        if size > MODEL_LIMIT_BYTES:
            raise SourceError(
                f"{path}: {size} bytes; a model file of at most {MODEL_LIMIT_BYTES} is accepted"
            )
        return path.read_bytes()
    except FileNotFoundError as error:
        raise SourceError(f"no model file {path}", exit_code=ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise SourceError(f"cannot read model file {path}: {error.strerror}") from error


def _parse(path: Path, data: bytes) -> ModelProto:
    if data[4:8] == b"TFL3":
        return load_tflite(path.name, data)
    if is_skops(data):
        return load_estimator(path.name, data)
    refuse_foreign(path.name, data)
    try:
        model = onnx.load_model_from_string(data)
    except (DecodeError, ValueError) as error:
        raise SourceError(
            f"{path.name} is not an ONNX file, or it is cut short ({len(data)} bytes): {error}",
            hint=_EXPORT_HINT,
            docs=EXPORT_DOCS,
        ) from error
    # Protobuf reads many a stray file as an empty message.
    if not model.graph.node or not model.opset_import:
        raise SourceError(
            f"{path.name} is not an ONNX file, or it is cut short ({len(data)} bytes): it holds no"
            " graph of nodes",
            hint=_EXPORT_HINT,
            docs=EXPORT_DOCS,
        )
    opset = max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=0)
    newest = onnx.defs.onnx_opset_version()
    if not OPSET_MIN <= opset <= newest:
        raise SourceError(
            f"{path.name} is of opset {opset}; opsets {OPSET_MIN} to {newest} are accepted",
            hint="export it again with opset_version=17",
            docs=EXPORT_DOCS,
        )
    return model


def external_files(path: Path, model: ModelProto) -> list[Path]:
    """Load external weights into ``model`` and return the files that they came from."""
    names: set[str] = set()
    for tensor in model.graph.initializer:
        if tensor.data_location == TensorProto.EXTERNAL:
            names |= {entry.value for entry in tensor.external_data if entry.key == "location"}
    if not names:
        return []
    size = sum(file.stat().st_size for file in map(path.parent.joinpath, names) if file.is_file())
    if size > MODEL_LIMIT_BYTES:
        raise SourceError(
            f"{path.name} keeps {size} bytes of weights in other files; at most"
            f" {MODEL_LIMIT_BYTES} are accepted"
        )
    try:
        onnx.load_external_data_for_model(model, str(path.parent))
    except (OSError, ValueError, TypeError, onnx.checker.ValidationError) as error:
        raise SourceError(
            f"{path.name} keeps weights in {', '.join(sorted(names))[:200]}, which cannot be"
            f" loaded: {str(error).splitlines()[0][:200]}",
            hint="keep the model and its data files together in one directory",
        ) from error
    return [path.parent / name for name in sorted(names)]


def _require_float(path: Path, what: str, value: onnx.ValueInfoProto) -> None:
    kind = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type
    if kind != "tensor_type" or element != TensorProto.FLOAT:
        got = TensorProto.DataType.Name(element) if kind == "tensor_type" else kind or "nothing"
        raise SourceError(
            f"{path.name}: expected a float32 {what}, but {value.name!r} is {got}",
            hint="export the float32 model; preprocessing belongs into --preprocess",
        )


def _static_shape(path: Path, value: onnx.ValueInfoProto) -> tuple[int | None, tuple[int, ...]]:
    axes = value.type.tensor_type.shape.dim
    sizes = [axis.dim_value if axis.dim_value > 0 else None for axis in axes]
    rest = [size for size in sizes[1:] if size is not None]
    if len(sizes) < 2 or len(rest) != len(sizes) - 1:
        shown = [axis.dim_value or axis.dim_param or "?" for axis in axes]
        raise SourceError(
            f"{path.name}: expected an input [batch, ...] of static shape behind the batch axis,"
            f" but {value.name!r} is {shown}",
            hint="export the model with a fixed input size; only the batch axis may be free",
        )
    return sizes[0], tuple(rest)
