"""A .tflite file in LiteRT: named float32 arrays in, arrays out.

ai-edge-litert and tflite-runtime are one runtime under two names; which one has a wheel depends
on CPU and Python. tflite-runtime imports beside a numpy that it cannot work with, so a runtime
counts only once it has loaded the file.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from edge_contract.model import Variant
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.native_log import without_chatter
from edge_runtime.preprocess import FloatArray

SIGNATURE = "serving_default"
RUNTIMES = {
    "ai-edge-litert": "ai_edge_litert.interpreter",
    "tflite-runtime": "tflite_runtime.interpreter",
}
"""Distribution -> the module with its Interpreter, in the order in which they are tried."""

_REFUSALS = (ImportError, AttributeError, OSError, RuntimeError, SystemError, ValueError)
"""What loading raises: for a bad file the last and RuntimeError, for another numpy all the rest."""


class LitertSession:
    """A loaded .tflite file; its tensors are allocated once.

    Args:
        model: bytes of the file, or its path (a path keeps memory lower).
        variant: what it is in its bundle.
        threads: threads of a kernel.

    Raises:
        ModelRuntimeError: no runtime is installed, none takes the file, or the file has no
            signature ``serving_default``.
    """

    def __init__(self, model: bytes | Path, variant: Variant, threads: int) -> None:
        self._file = variant.file
        self.runs_on, self._interpreter = _load(model, variant.file, threads)
        if SIGNATURE not in self._interpreter.get_signature_list():
            raise ModelRuntimeError(
                f"{variant.file} has no signature {SIGNATURE!r}, which names inputs and outputs"
            )
        runner = self._interpreter.get_signature_runner(SIGNATURE)
        self._inputs = {n: int(d["index"]) for n, d in runner.get_input_details().items()}
        self._outputs = {n: int(d["index"]) for n, d in runner.get_output_details().items()}
        self.input_names = list(self._inputs)
        self.output_names = list(self._outputs)

    def run(self, feeds: Mapping[str, FloatArray]) -> list[npt.NDArray[Any]]:
        """Inputs by name, each ``[1, ...]`` -> every output, in the order of ``output_names``.

        Raises:
            ModelRuntimeError: the runtime failed.
        """
        try:
            for name, value in feeds.items():
                self._interpreter.set_tensor(self._inputs[name], value)
            self._interpreter.invoke()
            # get_tensor copies: the runtime writes its next answer into the same memory.
            return [np.asarray(self._interpreter.get_tensor(i)) for i in self._outputs.values()]
        except (ValueError, RuntimeError) as error:
            raise ModelRuntimeError(
                f"{self._file}: inference failed: {_first_line(error)}"
            ) from error


def _load(model: bytes | Path, file: str, threads: int) -> tuple[str, Any]:
    """The runtime's name and an interpreter with its tensors allocated."""
    said: dict[str, str] = {}
    for name, module in RUNTIMES.items():
        try:
            interpreter_type = importlib.import_module(module).Interpreter
            given = (
                {"model_path": str(model)} if isinstance(model, Path) else {"model_content": model}
            )
            with without_chatter():
                interpreter = interpreter_type(**given, num_threads=threads)
                interpreter.allocate_tensors()
        except ModuleNotFoundError:
            continue
        except _REFUSALS as error:
            said[name] = _first_line(error)
            continue
        return name, interpreter
    if not said:
        raise ModelRuntimeError(
            f"{file} needs LiteRT, which is not installed", hint="pip install 'wherry[tflite]'"
        )
    words = "; ".join(f"{name}: {text}" for name, text in said.items())
    raise ModelRuntimeError(
        f"LiteRT cannot load {file}: {words}",
        hint="if the file is whole, install the runtime again: pip install 'wherry[tflite]'",
    )


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
