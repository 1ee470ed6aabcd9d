"""The metric of a task, applied to both models' answers to the test data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from compiler.datasets.dataset import Labels
from compiler.metrics.classification import measure_classes
from compiler.metrics.detection import measure_boxes
from compiler.metrics.fidelity import measure_fidelity
from compiler.metrics.measured import Measured
from compiler.metrics.regression import measure_errors
from compiler.tasks import truth_of
from edge_contract.model import ModelManifest
from edge_runtime.classes import ClassScores
from edge_runtime.detections import DetectionLayout, Detections
from edge_runtime.preprocess import FloatArray
from edge_runtime.tensors import Tensors


@dataclass(frozen=True)
class Limits:
    """What a build may cost.

    max_drop_pp: of accuracy or mAP, in percentage points.
    max_error_increase_percent: of a regression's mean absolute error.
    min_cosine: between the outputs, where there are no labels.
    top_k: among how many best scores the label has to be.
    """

    max_drop_pp: float = 1.0
    max_error_increase_percent: float = 5.0
    min_cosine: float = 0.99
    top_k: int = 1


def metric_of(task: str, labelled: bool, limits: Limits) -> str:
    """The name of the metric that ``measure`` takes."""
    if not labelled or task == "embedding":
        return "fidelity"
    return {"regression": "error", "detection": "map"}.get(task, f"top-{limits.top_k}")


def measure(
    manifest: ModelManifest,
    floating: FloatArray,
    int8: FloatArray,
    y: Labels | None,
    limits: Limits,
) -> Measured:
    """Compare answers ``[n, values]``, all outputs one after another.

    Without labels, and for embeddings, fidelity alone is judged.

    Raises:
        DatasetError: the labels hold nothing to find.
    """
    outputs = Tensors(manifest.outputs)
    first = slice(outputs.sizes[0])
    if y is None or manifest.task == "embedding":
        return measure_fidelity(
            floating,
            int8,
            outputs.names,
            outputs.sizes,
            min_cosine=limits.min_cosine,
            classes=ClassScores(manifest) if manifest.task == "classification" else None,
        )
    if manifest.task == "regression":
        return measure_errors(
            floating[:, first],
            int8[:, first],
            y,
            max_increase_percent=limits.max_error_increase_percent,
        )
    if manifest.task == "detection":
        layout = DetectionLayout(manifest.outputs)
        return measure_boxes(
            _boxes(layout, floating),
            _boxes(layout, int8),
            truth_of(y),
            max_drop_pp=limits.max_drop_pp,
        )
    classes = ClassScores(manifest)
    return measure_classes(
        classes.of(floating),
        classes.of(int8),
        y,
        manifest.labels,
        max_drop_pp=limits.max_drop_pp,
        top_k=limits.top_k,
    )


def _boxes(layout: DetectionLayout, rows: FloatArray) -> Sequence[Detections]:
    return [layout.read(row) for row in rows]
