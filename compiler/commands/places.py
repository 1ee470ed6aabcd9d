"""Arguments that name what a build made, and what is said when they name a model instead."""

from __future__ import annotations

from pathlib import Path

import click

from compiler.errors import CompileError
from edge_contract.errors import ExitCode

_MODELS = frozenset(
    {".onnx", ".ort", ".tflite", ".lite", ".pt", ".pth", ".h5", ".keras", ".pb", ".pkl", ".joblib"}
    | {".skops", ".safetensors", ".engine", ".trt"}
)
_TFLITE = b"TFL3"


class BuiltPath(click.ParamType):  # type: ignore[type-arg]  # generic in newer clicks only
    """A path that a build made. It is looked at before other options are missed, so that who
    names a model reads what is wrong and not that ``--target`` is missing.

    Args:
        what: that is expected.
        instead: a sentence that says which command a model is for; ``{model}`` is its path.
    """

    name = "path"

    def __init__(self, what: str, instead: str) -> None:
        self._what = what
        self._instead = instead

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> Path:
        """The path.

        Raises:
            CompileError: it is called as models are, or holds one.
        """
        path = Path(str(value))
        if _is_model(path):
            raise CompileError(
                f"{path} is a model file; expected {self._what}",
                hint=self._instead.format(model=path),
                docs="reference/edge-compile.md",
                exit_code=ExitCode.USAGE,
            )
        return path


def _is_model(path: Path) -> bool:
    if path.suffix.lower() in _MODELS and not path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            return file.read(8)[4:] == _TFLITE
    except OSError:
        return False  # what cannot be read is told by whoever needs it
