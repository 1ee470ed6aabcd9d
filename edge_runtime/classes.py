"""What a classifier's row says of its classes, whether it gives a score for each or one for two."""

from __future__ import annotations

import msgspec
import numpy as np

from edge_contract.model import ModelManifest
from edge_runtime.tensors import FloatArray, Tensors


class ClassScores:
    """Reads scores of classes from a classifier's rows.

    A model with two classes may give one score a frame, that of class 1: a probability ``p`` or a
    logit ``z`` (``ModelManifest.single_score``). It is read as ``(1 - p, p)``, or as
    ``(-z / 2, z / 2)``, whose softmax is the sigmoid of ``z``. So class 1 is named above 0.5 or
    above 0, and class 0 at the threshold itself.

    Args:
        manifest: of a classifier.

    Attributes:
        count: classes.
    """

    def __init__(self, manifest: ModelManifest) -> None:
        self._first = Tensors(manifest.outputs).sizes[0]
        self._single = manifest.single_score
        self.count = self._first if self._single is msgspec.UNSET else 2

    def of(self, rows: FloatArray) -> FloatArray:
        """Scores of classes, float32 ``[..., count]``, from whole rows ``[..., values]``."""
        own = rows[..., : self._first]
        if self._single is msgspec.UNSET:
            return own
        if self._single == "logit":
            return np.concatenate([own / -2, own / 2], axis=-1)
        return np.concatenate([1 - own, own], axis=-1)

    def confidence(self, best: float) -> float:
        """How sure one frame's scores are of their best class, whose score is ``best``.

        The score itself, or the probability that a single logit stands for.
        """
        return 1 / (1 + float(np.exp(-2 * best))) if self._single == "logit" else best
