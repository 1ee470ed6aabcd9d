"""A model file in onnxruntime: named float32 arrays in, arrays out.

Threads do not spin (spinning burns most of a core at 30 fps and gains nothing), and an S8S8
model runs its int8 kernels on x86-64 too, so that what the compiler saw is what a Pi computes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_contract.model import Variant
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.preprocess import FloatArray

CPU = "CPUExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
_TENSORRT_OPTIONS = {"trt_int8_enable": "1"}
"""Scales stand in the file (Q/DQ), so TensorRT needs no calibration of its own."""


def session_options(scheme: str, threads: int = 1) -> ort.SessionOptions:
    """Options for a variant of ``scheme``: quiet, not spinning, int8 kernels on every CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if scheme in ("s8s8", "s8s8-symmetric"):
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


def providers_for(variant: Variant, offered: list[str]) -> list[tuple[str, dict[str, str]]]:
    """Execution providers for ``variant``, the preferred one first.

    TensorRT where the device's profile names it and this onnxruntime offers it; the CPU always
    comes last, and runs everything where there is no TensorRT.

    Args:
        offered: ``onnxruntime.get_available_providers()``.
    """
    found: list[tuple[str, dict[str, str]]] = []
    if variant.accelerator == "tensorrt" and TENSORRT in offered:
        found.append((TENSORRT, dict(_TENSORRT_OPTIONS)))
    return [*found, (CPU, {})]


class OnnxSession:
    """A loaded ONNX file.

    Args:
        model: bytes of the file, or its path (a path keeps memory lower).
        variant: what it is in its bundle.
        threads: intra-op threads.

    Raises:
        ModelRuntimeError: the runtime refuses the file.
    """

    def __init__(self, model: bytes | Path, variant: Variant, threads: int) -> None:
        self._file = variant.file
        chosen = providers_for(variant, ort.get_available_providers())
        try:
            self._session = ort.InferenceSession(
                str(model) if isinstance(model, Path) else model,
                session_options(variant.scheme, threads),
                providers=[name for name, _ in chosen],
                provider_options=[options for _, options in chosen],
            )
        # onnxruntime raises a family of types without a common base, RuntimeError among them.
        except Exception as error:
            raise ModelRuntimeError(
                f"onnxruntime {ort.__version__} cannot load {variant.file}: {_first_line(error)}"
            ) from error
        self.input_names: list[str] = [entry.name for entry in self._session.get_inputs()]
        self.output_names: list[str] = [entry.name for entry in self._session.get_outputs()]

    @property
    def runs_on(self) -> str:
        """The runtime and the provider that it prefers, in words of a log."""
        provider = self._session.get_providers()[0].removesuffix("ExecutionProvider")
        return f"onnxruntime {ort.__version__}, {provider}"

    def run(self, feeds: Mapping[str, FloatArray]) -> list[npt.NDArray[Any]]:
        """Inputs by name -> every output, in the order of ``output_names``.

        Raises:
            ModelRuntimeError: the runtime failed.
        """
        try:
            return [np.asarray(value) for value in self._session.run(None, dict(feeds))]
        # As above: the runtime's exceptions have no common base.
        except Exception as error:
            raise ModelRuntimeError(
                f"{self._file}: inference failed: {_first_line(error)}"
            ) from error


def _first_line(error: Exception) -> str:
    lines = str(error).splitlines()
    return lines[0][:300] if lines else type(error).__name__
