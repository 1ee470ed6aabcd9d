"""The drift reference of a new bundle: how the model's inputs and answers look when all is well."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from compiler.datasets.dataset import Frames
from compiler.errors import DatasetError
from edge_contract.preprocess import PreprocessSpec
from edge_contract.reference import DriftReference
from edge_runtime.features import extract, feature_names
from edge_runtime.preprocess import FloatArray
from edge_runtime.reference import build_reference


def drift_reference(
    frames: Iterable[Frames], scores: FloatArray, spec: PreprocessSpec
) -> DriftReference:
    """The reference from calibration and selection frames and the variant's answers to them.

    Args:
        frames: n raw frames, as the device's source gives them.
        scores: float32 ``[n, classes]`` of the bundle's first variant.
        spec: says whether the frames are images, which only the features' names depend on.

    Raises:
        DatasetError: too few frames.
    """
    rows = [extract(frame, score) for frame, score in zip(frames, scores, strict=True)]
    try:
        return build_reference(
            np.stack([features for features, _ in rows]),
            np.array([class_id for _, class_id in rows], np.int64),
            feature_names(image=spec.kind == "image"),
            classes=scores.shape[1],
        )
    except ValueError as error:
        raise DatasetError(f"calibration data: {error}") from error
