"""Model files of other tools: recognised by their contents, refused with the lines that export.

Nothing is unpickled, ever: a pickle is a program, and reading one hands the machine to whoever
wrote it. So there is no option to trust one either (ADR 0014); the tool that wrote a file exports
it in a few lines, which ``docs/how-to/export.md`` lists and the tests run.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from compiler.errors import SourceError

EXPORT_DOCS = "how-to/export.md"

_TORCH = "torch.onnx.export(model.eval(), (example,), 'model.onnx', dynamo=False, opset_version=17)"
_KERAS = "model.export('model.onnx', format='onnx'), or tf.lite.TFLiteConverter for a .tflite"
_SAVED_MODEL = "tf.lite.TFLiteConverter.from_saved_model(folder).convert() gives a float .tflite"
_SKLEARN = "skl2onnx.to_onnx(model, X[:1].astype('float32'), options={'zipmap': False})"
_ANY = "export the trained model to ONNX, float32, and give that file"

_ZLIB = (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda")
_SCAN_BYTES = 1 << 20
"""How far into a pickle names of modules are looked for."""


def refuse_foreign(name: str, data: bytes) -> None:
    """Refuse the bytes of a file that another tool wrote; say nothing of any other.

    Args:
        name: for messages.
        data: the whole file.

    Raises:
        SourceError: it is such a file; says which and how to export it.
    """
    found = _recognise(data)
    if found is not None:
        what, hint = found
        raise SourceError(
            f"{name} is {what}; expected ONNX or a float .tflite", hint=hint, docs=EXPORT_DOCS
        )


def refuse_directory(path: Path) -> None:
    """Refuse a directory that stands where a model file is expected.

    Raises:
        SourceError: always; says what the directory is where that is known.
    """
    what, hint = "a directory", "give the model file itself"
    if (path / "saved_model.pb").is_file():
        what, hint = "a TensorFlow SavedModel", _SAVED_MODEL
    elif (path / "Data").is_dir() and (path / "Manifest.json").is_file():
        what, hint = "a Core ML package", _ANY
    elif (path / "oci-layout").is_file():
        what, hint = "a compiled bundle", "give the float model that it was made from"
    raise SourceError(
        f"{path} is {what}; expected an ONNX or float .tflite file", hint=hint, docs=EXPORT_DOCS
    )


def _recognise(data: bytes) -> tuple[str, str] | None:
    head = data[:16]
    if head.startswith(b"PK\x03\x04"):
        return _archive(data)
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "an HDF5 file, such as Keras writes (.h5)", _KERAS
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return _pickle(data)
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"(\xb5/\xfd", *_ZLIB)):
        return "a compressed file, perhaps a joblib pickle or an archive", _ANY
    if head.startswith(b"\x93NUMPY"):
        return "a numpy array, data and not a model", "give it as --calibration or --test"
    if head.startswith((b"GGUF", b"ggml")):
        return "a GGUF language model", _ANY
    if head.startswith((b"ftrt", b"ptrt")):
        return "a TensorRT engine, compiled for one GPU", _ANY
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < len(data):
        return "a safetensors file, weights without a graph", _TORCH
    if head.lstrip().startswith((b"<?xml", b"<net")):
        return "an XML file, such as OpenVINO writes", _ANY
    return None


def is_skops(data: bytes) -> bool:
    """Whether these bytes are a skops archive."""
    return data.startswith(b"PK\x03\x04") and "schema.json" in _names(data)


def _archive(data: bytes) -> tuple[str, str]:
    ends = _names(data)
    if not ends:
        return "a zip archive that is cut short or damaged, perhaps a PyTorch checkpoint", _TORCH
    if "constants.pkl" in ends:
        return "a TorchScript archive", "export the eager model: " + _TORCH
    if "data.pkl" in ends:
        return "a PyTorch checkpoint, which is a pickle", _TORCH
    if "model.weights.h5" in ends:
        return "a Keras file", _KERAS
    if "schema.json" in ends:
        return "a skops file with a scikit-learn estimator", _SKLEARN
    if all(name.endswith(".npy") for name in ends):
        return "an .npz file, data and not a model", "give it as --calibration or --test"
    return "a zip archive", _ANY


def _names(data: bytes) -> set[str]:
    """The names in a zip archive without their folders; none where it is damaged."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            return {name.rsplit("/", 1)[-1] for name in archive.namelist()}
    # The directory of a damaged archive sends zipfile anywhere.
    except (zipfile.BadZipFile, ValueError, EOFError, OSError, RuntimeError, IndexError):
        return set()


def _pickle(data: bytes) -> tuple[str, str]:
    start = data[:_SCAN_BYTES]
    if b"torch" in start or data[2:].startswith(b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."):
        return "a PyTorch checkpoint, which is a pickle", _TORCH
    if b"sklearn" in start:
        return "a pickled scikit-learn estimator", _SKLEARN
    if b"keras" in start or b"tensorflow" in start:
        return "a pickled Keras model", _KERAS
    return "a pickle, which is a program that runs when it is read", _ANY
