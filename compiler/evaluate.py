"""Answer samples frame by frame, as a device does, and compare two models' answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np
import numpy.typing as npt

from compiler.datasets.dataset import Frames, Labels
from compiler.errors import CompileError
from edge_contract.model import ModelManifest, Variant
from edge_runtime.errors import InputRefusedError, ModelRuntimeError
from edge_runtime.preprocess import FloatArray
from edge_runtime.session import ModelSession

Ids = npt.NDArray[np.int64]


class Runner:
    """Runs one variant over many frames through ``edge_runtime``.

    Every worker has a session of one thread of its own, and each frame is one run of it, so the
    scores do not depend on the number of workers.

    Args:
        model: the variant's ONNX bytes.
        manifest, variant: as they stand in the bundle.
        workers: frames answered at the same time.

    Raises:
        ModelRuntimeError: the runtime refuses the model.
    """

    def __init__(
        self, model: bytes, manifest: ModelManifest, variant: Variant, workers: int = 1
    ) -> None:
        self._sessions = [ModelSession(model, manifest, variant) for _ in range(workers)]

    @property
    def runs_on(self) -> str:
        """The runtime, and what it runs the variant on."""
        return self._sessions[0].runs_on

    def scores(self, x: Frames, role: str) -> FloatArray:
        """Raw frames ``[n, ...]`` -> float32 scores ``[n, classes]``.

        Raises:
            CompileError: a frame does not fit, a run fails, or a score is NaN; ``role`` says
                whose frames they are.
        """
        parts = np.array_split(np.arange(len(x)), min(len(self._sessions), len(x)))
        stop = Event()
        with ThreadPoolExecutor(len(parts)) as pool:
            try:
                jobs = [
                    pool.submit(_answer, session, x, part, role, stop)
                    for session, part in zip(self._sessions, parts, strict=False)
                ]
                scores = np.concatenate([job.result() for job in jobs])
            except BaseException:
                # An interrupt, too, must not wait for thousands of frames.
                stop.set()
                raise
        bad = ~np.isfinite(scores).all(axis=1)
        if bad.any():
            raise CompileError(
                f"{role} data: the scores of row {int(bad.argmax())} are NaN or infinite"
                f" ({int(bad.sum())} such rows)"
            )
        return scores


def _answer(session: ModelSession, x: Frames, rows: Ids, role: str, stop: Event) -> FloatArray:
    found: list[FloatArray] = []
    for row in rows.tolist():
        if stop.is_set():
            break
        try:
            found.append(session.predict(x[row]).scores)
        except (InputRefusedError, ModelRuntimeError) as error:
            raise CompileError(
                f"{role} data, row {row}: {error.message}", hint=error.hint
            ) from error
    return np.stack(found)


@dataclass(frozen=True)
class ClassRow:
    """One class of the test data: samples and right answers of both models."""

    label: str
    n: int
    float_right: int
    int8_right: int


@dataclass(frozen=True)
class Comparison:
    """The float and the int8 model on the same labelled samples.

    agreement: share of samples to which both give the same class, right or wrong.
    lost, gained: row numbers of (float right, int8 wrong) and of the reverse.
    """

    n: int
    float_accuracy: float
    int8_accuracy: float
    agreement: float
    lost: tuple[int, ...]
    gained: tuple[int, ...]
    classes: tuple[ClassRow, ...]


def compare(
    float_scores: FloatArray, int8_scores: FloatArray, y: Labels, labels: list[str]
) -> Comparison:
    """Compare scores ``[n, classes]`` of two models against class ids ``[n]``."""
    float_ids, int8_ids = float_scores.argmax(axis=1), int8_scores.argmax(axis=1)
    float_right, int8_right = float_ids == y, int8_ids == y
    return Comparison(
        n=len(y),
        float_accuracy=float(float_right.mean()),
        int8_accuracy=float(int8_right.mean()),
        agreement=float((float_ids == int8_ids).mean()),
        lost=tuple(np.flatnonzero(float_right & ~int8_right).tolist()),
        gained=tuple(np.flatnonzero(~float_right & int8_right).tolist()),
        classes=tuple(
            ClassRow(
                label=label,
                n=int((y == class_id).sum()),
                float_right=int((float_right & (y == class_id)).sum()),
                int8_right=int((int8_right & (y == class_id)).sum()),
            )
            for class_id, label in enumerate(labels)
        ),
    )


def snr_db(reference: FloatArray, scores: FloatArray) -> float:
    """Power of ``reference`` over power of the difference, in dB, at most 200."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(scores.astype(np.float64) - reference).sum())
    if signal <= 0:
        return 0.0
    return float(10 * np.log10(signal / max(noise, signal * 1e-20)))
