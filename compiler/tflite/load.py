"""The door to this package that needs nothing of it until a .tflite file comes."""

from __future__ import annotations

from onnx import ModelProto

from compiler.errors import SourceError


def load_tflite(file_name: str, data: bytes) -> ModelProto:
    """A float .tflite file as ONNX; the schema, 20,000 lines of it, is imported on demand.

    Raises:
        SourceError: as ``to_onnx.tflite_to_onnx``, or ai-edge-litert is not installed.
    """
    try:
        from compiler.tflite.to_onnx import tflite_to_onnx
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("compiler"):
            raise
        raise SourceError(
            f"{file_name} is a TensorFlow Lite file; reading it needs {error.name}",
            hint="pip install 'wherry[compile]'",
        ) from error
    return tflite_to_onnx(file_name, data)
