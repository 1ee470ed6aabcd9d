"""Answer samples frame by frame, as a device does, and compare two models' answers."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event

import numpy as np
import numpy.typing as npt

from compiler.datasets.dataset import Labels
from compiler.datasets.frames import Array, Frames, blocks
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

    def blocks(self, x: Frames, role: str) -> Iterator[tuple[Array, FloatArray]]:
        """Raw frames and their rows, block by block; see ``scores``."""
        row = 0
        for frames in blocks(x):
            yield frames, self.scores(frames, role, row)
            row += len(frames)

    def scores(self, x: Frames, role: str, first_row: int = 0) -> FloatArray:
        """Raw frames ``[n, ...]`` -> float32 rows ``[n, values]``, all outputs one after another.

        Raises:
            CompileError: a frame does not fit, a run fails, or a score is NaN; ``role`` says
                whose frames they are.
        """
        parts = np.array_split(np.arange(len(x)), min(len(self._sessions), len(x)))
        stop = Event()
        with ThreadPoolExecutor(len(parts)) as pool:
            try:
                jobs = [
                    pool.submit(_answer, session, x, part, role, first_row, stop)
                    for session, part in zip(self._sessions, parts, strict=False)
                ]
                scores = np.concatenate([job.result() for job in jobs])
            except BaseException:
                # An interrupt, too, must not wait for thousands of frames.
                stop.set()
                raise
        bad = ~np.isfinite(scores).all(axis=1)
        if bad.any():
            row = first_row + int(bad.argmax())
            raise CompileError(
                f"{role} data: the scores of row {row} are NaN or infinite"
                f" ({int(bad.sum())} such rows)"
            )
        return scores


def _answer(
    session: ModelSession, x: Frames, rows: Ids, role: str, first_row: int, stop: Event
) -> FloatArray:
    found: list[FloatArray] = []
    for row in rows.tolist():
        if stop.is_set():
            break
        try:
            found.append(session.predict(x[row]).scores)
        except (InputRefusedError, ModelRuntimeError) as error:
            raise CompileError(
                f"{role} data, row {first_row + row}: {error.message}", hint=error.hint
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

    float_accuracy, int8_accuracy: share of samples answered rightly, among the first ``top_k``.
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
    top_k: int = 1


def right_among_top(scores: FloatArray, y: Labels, top_k: int) -> npt.NDArray[np.bool_]:
    """Whether each label is among the ``top_k`` best scores; of equal scores the first counts."""
    ids = y.astype(np.int64)
    own = np.take_along_axis(scores, ids[:, None], axis=1)
    before = np.arange(scores.shape[1]) < ids[:, None]
    better = (scores > own) | ((scores == own) & before)
    return np.asarray(better.sum(axis=1) < top_k)


def compare(
    float_scores: FloatArray,
    int8_scores: FloatArray,
    y: Labels,
    labels: list[str],
    top_k: int = 1,
) -> Comparison:
    """Compare scores ``[n, classes]`` of two models against class ids ``[n]``."""
    float_ids, int8_ids = float_scores.argmax(axis=1), int8_scores.argmax(axis=1)
    float_right, int8_right = (right_among_top(s, y, top_k) for s in (float_scores, int8_scores))
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
        top_k=top_k,
    )


def snr_db(reference: FloatArray, scores: FloatArray) -> float:
    """Power of ``reference`` over power of the difference, in dB, at most 200."""
    signal = float(np.square(reference, dtype=np.float64).sum())
    noise = float(np.square(scores.astype(np.float64) - reference).sum())
    if signal <= 0:
        return 0.0
    return float(10 * np.log10(signal / max(noise, signal * 1e-20)))
