"""The door to this package that needs nothing of it until a .tflite file comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from onnx import ModelProto

from compiler.errors import SourceError


@contextmanager
def litert_schema(what: str) -> Iterator[None]:
    """Import what needs the schema in here.

    Args:
        what: the beginning of a sentence that ends with "needs <package>".

    Raises:
        SourceError: ai-edge-litert is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("compiler"):
            raise
        raise SourceError(
            f"{what} needs {error.name}", hint="pip install 'wherry[compile]'"
        ) from error


def load_tflite(file_name: str, data: bytes) -> ModelProto:
    """A float .tflite file as ONNX; the schema, 20,000 lines of it, is imported on demand.

    Raises:
        SourceError: as ``to_onnx.tflite_to_onnx``, or ai-edge-litert is not installed.
    """
    with litert_schema(f"{file_name} is a TensorFlow Lite file; reading it"):
        from compiler.tflite.to_onnx import tflite_to_onnx
    return tflite_to_onnx(file_name, data)
