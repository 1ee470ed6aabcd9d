"""One loaded model variant: raw frame in, one row of float32 out, whichever runtime it wants."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from edge_contract.model import ModelManifest, Variant
from edge_runtime.classes import ClassScores
from edge_runtime.errors import InputRefusedError, ModelRuntimeError
from edge_runtime.preprocess import FloatArray, Preprocessor
from edge_runtime.summary import summariser
from edge_runtime.tensors import Tensors, join


class RuntimeSession(Protocol):
    """A model file that a runtime has loaded: ``OnnxSession`` or ``LitertSession``.

    runs_on: the runtime, and what it runs the model on, for logs.
    """

    input_names: list[str]
    output_names: list[str]

    @property
    def runs_on(self) -> str: ...

    def run(self, feeds: Mapping[str, FloatArray]) -> list[npt.NDArray[Any]]:
        """Inputs by name -> every output, in the order of ``output_names``.

        Raises:
            ModelRuntimeError: the runtime failed.
        """
        ...


def open_runtime(model: bytes | Path, variant: Variant, threads: int = 1) -> RuntimeSession:
    """Load ``model`` in the runtime that ``variant`` names; no other one is imported.

    Raises:
        ModelRuntimeError: the runtime is missing or refuses the file.
    """
    if variant.runtime == "litert":
        from edge_runtime.litert_session import LitertSession

        return LitertSession(model, variant, threads)
    from edge_runtime.onnx_session import OnnxSession

    return OnnxSession(model, variant, threads)


class Prediction(msgspec.Struct, frozen=True):
    """The answer to one frame.

    scores: float32 ``[values]``, dequantised: all outputs, one after another.
    judged: what drift features look at: a classifier's scores of its classes, else all of
        ``scores``.
    class_id, confidence, value: see ``edge_runtime.summary.Summary``.
    preprocess_ms, infer_ms: measured durations of the two stages.
    """

    scores: FloatArray
    judged: FloatArray
    class_id: int | None
    confidence: float | None
    preprocess_ms: float
    infer_ms: float
    value: float | None = None


class ModelSession:
    """A variant that is loaded, checked and warm.

    Args:
        model: bytes of the model file, or its path (a path keeps memory lower).
        manifest: the bundle's ``model.json``.
        variant: the variant that ``model`` is.
        threads: intra-op threads.

    Raises:
        ModelRuntimeError: the runtime refuses the file, or its inputs and outputs are not those
            that the manifest declares.
    """

    def __init__(
        self, model: bytes | Path, manifest: ModelManifest, variant: Variant, threads: int = 1
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        self._session = open_runtime(model, variant, threads)
        self.inputs, self.outputs = Tensors(manifest.inputs), Tensors(manifest.outputs)
        for what, found, declared in (
            ("inputs", self._session.input_names, self.inputs.names),
            ("outputs", self._session.output_names, self.outputs.names),
        ):
            if sorted(found) != sorted(declared):
                raise ModelRuntimeError(
                    f"{variant.file} has {what} {found}, model.json declares {list(declared)}"
                )
        self._places = [self._session.output_names.index(name) for name in self.outputs.names]
        self._only = self.inputs.names[0] if len(self.inputs.names) == 1 else None
        self._summarise = summariser(manifest)
        self._classes = ClassScores(manifest) if manifest.task == "classification" else None
        self.preprocessor = Preprocessor(manifest.preprocess, self.inputs.row_shape)

    def predict(self, frame: npt.NDArray[np.generic]) -> Prediction:
        """Answer one raw frame.

        Raises:
            InputRefusedError: the frame does not fit the contract.
            ModelRuntimeError: the runtime failed.
        """
        begin = time.perf_counter()
        batch = self.preprocessor(frame)
        middle = time.perf_counter()
        scores = self._run(batch)
        end = time.perf_counter()
        summary = self._summarise(scores)
        return Prediction(
            scores=scores,
            judged=scores if self._classes is None else self._classes.of(scores),
            class_id=summary.class_id,
            confidence=summary.confidence,
            preprocess_ms=(middle - begin) * 1e3,
            infer_ms=(end - middle) * 1e3,
            value=summary.value,
        )

    def scores(self, frames: npt.NDArray[np.generic]) -> FloatArray:
        """Raw frames ``[n, ...]`` -> float32 scores ``[n, values]``, one frame a run.

        Raises:
            InputRefusedError: a frame does not fit the contract; names the row.
        """
        rows = []
        for row, frame in enumerate(frames):
            try:
                rows.append(self._run(self.preprocessor(frame)))
            except InputRefusedError as error:
                raise InputRefusedError(f"row {row}: {error.message}") from error
        return np.stack(rows)

    def warm_up(self, frame: npt.NDArray[np.generic], runs: int = 3) -> None:
        """Pay for the first slow calls now and not on the first real frame."""
        for _ in range(runs):
            self.predict(frame)

    @property
    def runs_on(self) -> str:
        """The runtime, and what it runs the model on, for logs."""
        return self._session.runs_on

    def _run(self, batch: FloatArray) -> FloatArray:
        feeds = {self._only: batch} if self._only is not None else self.inputs.split(batch)
        found = self._session.run(feeds)
        return join([found[place] for place in self._places])
