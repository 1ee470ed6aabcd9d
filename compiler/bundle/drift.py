"""The drift reference of a new bundle: how the model's inputs and answers look when all is well."""

from __future__ import annotations

from compiler.bundle.tuned import Tuned
from compiler.errors import DatasetError
from edge_contract.model import ModelManifest
from edge_contract.reference import DriftReference
from edge_runtime.classes import ClassScores
from edge_runtime.features import feature_names
from edge_runtime.reference import build_reference


def drift_reference(tuned: Tuned, manifest: ModelManifest) -> DriftReference:
    """The reference from what was seen of calibration and selection frames.

    Raises:
        DatasetError: too few frames.
    """
    classify = manifest.task == "classification"
    try:
        return build_reference(
            tuned.features,
            tuned.class_ids,
            feature_names(image=manifest.preprocess.kind == "image", classes=classify),
            classes=ClassScores(manifest).count if classify else 1,
        )
    except ValueError as error:
        raise DatasetError(f"calibration data: {error}") from error
