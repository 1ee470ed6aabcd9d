"""Read a model file and hand out a float ONNX model that is known to be sound.

Everything a stranger's file can get wrong is found here, before any time is spent: not ONNX,
truncated, custom operators, cycles, int8 already, weights that are not numbers, inputs and
outputs that do not fit.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, TensorProto

from compiler.errors import SourceError
from compiler.graph.check import check_graph
from compiler.graph.estimator import load_estimator
from compiler.graph.foreign import EXPORT_DOCS, is_skops, refuse_directory, refuse_foreign
from compiler.graph.labeloutput import drop_label_output
from compiler.graph.precision import widen, widen_inputs
from compiler.tflite.load import load_tflite
from edge_contract.errors import ExitCode

MODEL_LIMIT_BYTES = 2 * 1024**3 - 1
"""What a protobuf message may measure."""

OPSET_MIN = 11

_FLOAT_KINDS = (TensorProto.FLOAT,)
_ANSWER_KINDS = (
    TensorProto.FLOAT,
    TensorProto.INT64,
    TensorProto.INT32,
    TensorProto.UINT8,
    TensorProto.INT8,
    TensorProto.BOOL,
)
"""What an output may be: a detector's classes are whole numbers."""

_EXPORT_HINT = "export the trained model to ONNX, float32, and give that file"


@dataclass(frozen=True)
class Source:
    """A checked float model; every input is float32 ``[batch, ...]``.

    digest: of the file, with its external data files after it in the order of their names.
    size_bytes: of the same files.
    batch_is_free: of every input.
    fixed_batch: the batch that the file fixes, where that is not 1; it was set to 1.
    notes: what a reader of the report should know of how the file was read.
    """

    model: ModelProto
    digest: str
    size_bytes: int
    batch_is_free: bool
    fixed_batch: int | None = None
    notes: tuple[str, ...] = ()


def load_source(path: Path, shapes: Mapping[str, Sequence[int]] | None = None) -> Source:
    """Read and check the model at ``path``.

    Args:
        path: an ONNX or .tflite file.
        shapes: input name -> static shape, batch axis included, for inputs that leave axes free.

    A batch axis that is fixed to another number than 1 is set to 1, because a device answers
    one frame at a time; the runtime then has the last word.

    Raises:
        SourceError: unreadable, or not a model that can be quantised; says which and why.
    """
    data = _read(path)
    model = _parse(path, data)
    external = external_files(path, model)
    check_graph(path.name, model)
    notes = (widen(model), widen_inputs(model))
    drop_label_output(model)
    graph = model.graph
    constants = {initializer.name for initializer in graph.initializer}
    inputs = [value for value in graph.input if value.name not in constants]
    if not inputs or not graph.output:
        raise SourceError(
            f"{path.name}: expected at least one input and one output, got {len(inputs)} and"
            f" {len(graph.output)}",
            hint="export the model with its answers as outputs",
        )
    for value in inputs:
        _require_kind(path, "input", value, _FLOAT_KINDS)
    for value in graph.output:
        _require_kind(path, "output", value, _ANSWER_KINDS)
    fix_shapes(path.name, graph, inputs, shapes or {})
    batches = {_batch_of(value) for value in inputs}
    for batch in batches - {None, 1}:
        for value in (*inputs, *graph.output):
            axes = value.type.tensor_type.shape.dim
            if axes and axes[0].dim_value == batch:
                axes[0].dim_value = 1
        # Shapes recorded for the old batch would contradict the new one.
        del graph.value_info[:]
    if None in batches and len(batches) > 1:
        for value in inputs:
            value.type.tensor_type.shape.dim[0].dim_value = 1
    kept = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in inputs]
    del graph.input[:]
    graph.input.extend(kept)
    state = hashlib.sha256(data)
    for file in external:
        state.update(file.read_bytes())
    return Source(
        model=model,
        digest="sha256:" + state.hexdigest(),
        size_bytes=len(data) + sum(file.stat().st_size for file in external),
        batch_is_free=batches == {None},
        fixed_batch=max((batch for batch in batches if batch not in (None, 1)), default=None),
        notes=tuple(filter(None, notes)),
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


def _require_kind(
    path: Path, what: str, value: onnx.ValueInfoProto, kinds: Collection[int]
) -> None:
    kind = value.type.WhichOneof("value")
    element = value.type.tensor_type.elem_type
    if kind != "tensor_type" or element not in kinds:
        got = TensorProto.DataType.Name(element) if kind == "tensor_type" else kind or "nothing"
        raise SourceError(
            f"{path.name}: expected a float32 {what}, but {value.name!r} is {got}",
            hint="export the float32 model; preprocessing belongs into --preprocess",
        )


def fix_shapes(
    name: str,
    graph: onnx.GraphProto,
    inputs: Sequence[onnx.ValueInfoProto],
    shapes: Mapping[str, Sequence[int]],
) -> None:
    """Give free axes the sizes that the user named; only the batch axis may stay free.

    Raises:
        SourceError: a shape for no input, of another rank, or against a size in the file; or
            axes that are free still, all of them named in one message.
    """
    unknown = sorted(set(shapes) - {value.name for value in inputs})
    if unknown:
        raise SourceError(
            f"{name}: --shape names {unknown[0]!r}, but the inputs are"
            f" {[value.name for value in inputs]}",
            exit_code=ExitCode.USAGE,
        )
    missing: list[str] = []
    for value in inputs:
        axes = value.type.tensor_type.shape.dim
        shown = [axis.dim_value or axis.dim_param or "?" for axis in axes]
        wanted = shapes.get(value.name)
        if wanted is not None:
            fits = len(wanted) == len(axes) and all(
                axis.dim_value in (0, size) for axis, size in zip(axes, wanted, strict=True)
            )
            if not fits:
                raise SourceError(
                    f"{name}: --shape {value.name}={','.join(map(str, wanted))} does not fit the"
                    f" input {shown}",
                    exit_code=ExitCode.USAGE,
                )
            for axis, size in zip(axes, wanted, strict=True):
                axis.dim_value = size
            # Shapes recorded for free axes would contradict the new ones.
            del graph.value_info[:]
        if not axes:
            raise SourceError(
                f"{name}: the input {value.name!r} has no batch axis; expected [batch, ...]",
                hint="export the model with a batch axis",
            )
        if any(axis.dim_value <= 0 for axis in list(axes)[1:]):
            sizes = ",".join(str(axis.dim_value) if axis.dim_value > 0 else "N" for axis in axes)
            sizes = "1" + sizes[1:] if sizes.startswith("N") else sizes
            missing.append(f"--shape {value.name}={sizes}")
            shown_all = f"{value.name!r} is {shown}"
    if missing:
        raise SourceError(
            f"{name}: axes behind the batch axis are free ({shown_all}), and devices need static"
            " shapes",
            hint=f"{' '.join(missing)} with numbers for N, or export with a fixed input size",
        )


def _batch_of(value: onnx.ValueInfoProto) -> int | None:
    size: int = value.type.tensor_type.shape.dim[0].dim_value
    return size if size > 0 else None
