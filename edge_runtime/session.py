"""One loaded model variant: raw frame in, float32 scores out.

Threads do not spin (spinning burns most of a core at 30 fps and gains nothing), and an S8S8
model runs its int8 kernels on x86-64 too, so that what the compiler saw is what a Pi computes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from edge_contract.model import ModelManifest, Variant
from edge_runtime.errors import InputRefusedError, ModelRuntimeError
from edge_runtime.preprocess import FloatArray, Preprocessor


@dataclass(frozen=True)
class Prediction:
    """The answer to one frame.

    scores: float32 ``[classes]``, dequantised.
    preprocess_ms, infer_ms: measured durations of the two stages.
    """

    scores: FloatArray
    class_id: int
    confidence: float
    preprocess_ms: float
    infer_ms: float


def session_options(scheme: str, threads: int = 1) -> ort.SessionOptions:
    """Options for a variant of ``scheme``: quiet, not spinning, int8 kernels on every CPU."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if scheme == "s8s8":
        options.add_session_config_entry("session.qdqisint8allowed", "1")
    return options


class ModelSession:
    """A variant that is loaded, checked and warm.

    Args:
        model: bytes of the ONNX file, or its path (a path keeps memory lower).
        manifest: the bundle's ``model.json``.
        variant: the variant that ``model`` is.
        threads: intra-op threads.

    Raises:
        ModelRuntimeError: the runtime refuses the file, or its inputs are not those that the
            manifest declares.
    """

    def __init__(
        self, model: bytes | Path, manifest: ModelManifest, variant: Variant, threads: int = 1
    ) -> None:
        self.manifest = manifest
        self.variant = variant
        source = str(model) if isinstance(model, Path) else model
        try:
            self._session = ort.InferenceSession(
                source,
                session_options(variant.scheme, threads),
                providers=["CPUExecutionProvider"],
            )
        # onnxruntime raises a family of types without a common base, RuntimeError among them.
        except Exception as error:
            raise ModelRuntimeError(
                f"onnxruntime cannot load {variant.file} of {manifest.name} {manifest.version}:"
                f" {str(error).splitlines()[0][:300]}"
            ) from error
        inputs = self._session.get_inputs()
        declared = manifest.inputs
        if [i.name for i in inputs] != [d.name for d in declared] or len(inputs) != 1:
            raise ModelRuntimeError(
                f"{variant.file} has inputs {[i.name for i in inputs]}, model.json declares"
                f" {[d.name for d in declared]}; one input is supported"
            )
        self._input = inputs[0].name
        self._output = self._session.get_outputs()[0].name
        self.preprocessor = Preprocessor(manifest.preprocess, tuple(declared[0].shape[1:]))

    def predict(self, frame: npt.NDArray[np.generic]) -> Prediction:
        """Answer one raw frame.

        Raises:
            InputRefusedError: the frame does not fit the contract.
            ModelRuntimeError: the runtime failed.
        """
        begin = time.perf_counter()
        batch = self.preprocessor(frame)
        middle = time.perf_counter()
        scores = self._run(batch)[0]
        end = time.perf_counter()
        best = int(scores.argmax())
        return Prediction(
            scores=scores,
            class_id=best,
            confidence=float(scores[best]),
            preprocess_ms=(middle - begin) * 1e3,
            infer_ms=(end - middle) * 1e3,
        )

    def scores(self, frames: npt.NDArray[np.generic]) -> FloatArray:
        """Raw frames ``[n, ...]`` -> float32 scores ``[n, classes]``, one frame a run.

        Raises:
            InputRefusedError: a frame does not fit the contract; names the row.
        """
        rows = []
        for row, frame in enumerate(frames):
            try:
                rows.append(self._run(self.preprocessor(frame))[0])
            except InputRefusedError as error:
                raise InputRefusedError(f"row {row}: {error.message}") from error
        return np.stack(rows)

    def warm_up(self, frame: npt.NDArray[np.generic], runs: int = 3) -> None:
        """Pay for the first slow calls now and not on the first real frame."""
        for _ in range(runs):
            self.predict(frame)

    def _run(self, batch: FloatArray) -> FloatArray:
        try:
            (output,) = self._session.run([self._output], {self._input: batch})
        # As above: the runtime's exceptions have no common base.
        except Exception as error:
            raise ModelRuntimeError(
                f"{self.variant.file}: inference failed: {str(error).splitlines()[0][:300]}"
            ) from error
        return np.asarray(output, dtype=np.float32).reshape(len(batch), -1)
