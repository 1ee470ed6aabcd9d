"""What is told of one answer in a few numbers, whatever the task: on the device rows are short."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import numpy as np

from edge_contract.model import ModelManifest
from edge_runtime.classes import ClassScores
from edge_runtime.detections import DetectionLayout
from edge_runtime.tensors import FloatArray, Tensors

SCORE_MIN = 0.5
"""Boxes with a score below this are not counted, where ``min_confidence`` says nothing."""


class Summary(msgspec.Struct, frozen=True):
    """One answer in short; ``None`` where the task has no such thing.

    class_id, confidence: of a classifier's best class; a detector's best box has a confidence.
    value: a regression's first number, how many boxes a detector is sure of, or an embedding's
        length.
    """

    class_id: int | None = None
    confidence: float | None = None
    value: float | None = None


def summariser(manifest: ModelManifest) -> Callable[[FloatArray], Summary]:
    """The function that sums up rows, float32 ``[values]``, of this model.

    Raises:
        ModelRuntimeError: a detector whose outputs cannot be told apart.
    """
    first = Tensors(manifest.outputs).sizes[0]

    if manifest.task == "classification":
        classes = ClassScores(manifest)

        def classification(row: FloatArray) -> Summary:
            scores = classes.of(row)
            best = int(scores.argmax())
            return Summary(class_id=best, confidence=classes.confidence(scores.item(best)))

        return classification

    def regression(row: FloatArray) -> Summary:
        return Summary(value=float(row[0]))

    def embedding(row: FloatArray) -> Summary:
        return Summary(value=float(np.linalg.norm(row[:first])))

    if manifest.task == "detection":
        layout = DetectionLayout(manifest.outputs)
        least = manifest.min_confidence or SCORE_MIN

        def detection(row: FloatArray) -> Summary:
            scores = layout.read(row).scores
            best = float(scores.max()) if scores.size else 0.0
            return Summary(confidence=best, value=float((scores >= least).sum()))

        return detection
    return regression if manifest.task == "regression" else embedding
