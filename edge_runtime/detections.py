"""Boxes in a model's answer: which output holds what, and the boxes themselves."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from edge_contract.model import TensorSpec
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.tensors import FloatArray, Tensors

_CLASS_WORDS = ("class", "label", "categor")
_SCORE_WORDS = ("score", "conf", "prob")


class Detections(msgspec.Struct, frozen=True):
    """The boxes of one frame.

    boxes: float32 ``[k, 4]``, two opposite corners in the model's own order and unit.
    scores: float32 ``[k]``. classes: int64 ``[k]``.
    """

    boxes: FloatArray
    scores: FloatArray
    classes: npt.NDArray[np.int64]


class DetectionLayout:
    """Reads boxes out of an answer's row.

    Two layouts are known: one output ``[n, k, 6]`` of four corners, score and class; or ``[n, k,
    4]`` boxes beside ``[n, k]`` scores and ``[n, k]`` classes, and perhaps one more output that
    holds nothing but the number of boxes.

    Args:
        outputs: as in ``model.json``.

    Raises:
        ModelRuntimeError: neither; says what to do.
    """

    def __init__(self, outputs: Sequence[TensorSpec]) -> None:
        self._tensors = Tensors(outputs)
        shapes = dict(zip(self._tensors.names, self._tensors.shapes, strict=True))
        self._packed = next((n for n, s in shapes.items() if len(s) == 2 and s[1] == 6), None)
        self._boxes = next((n for n, s in shapes.items() if len(s) == 2 and s[1] == 4), "")
        if self._packed is not None:
            return
        rows = shapes[self._boxes][0] if self._boxes else 0
        flat = [spec for spec in outputs if shapes[spec.name] == (rows,)] if rows else []
        classes = [spec for spec in flat if _says(spec, _CLASS_WORDS) or "int" in spec.dtype]
        scores = [spec for spec in flat if _says(spec, _SCORE_WORDS) and spec not in classes]
        if not scores and len(flat) == 2 and len(classes) == 1:
            scores = [spec for spec in flat if spec not in classes]
        if not classes and len(flat) == 2 and len(scores) == 1:
            classes = [spec for spec in flat if spec not in scores]
        if len(classes) != 1 or len(scores) != 1:
            shown = ", ".join(f"{name} {['n', *shape]}" for name, shape in shapes.items())
            raise ModelRuntimeError(
                "a detector gives one output [n, k, 6] (four corners, score, class), or boxes"
                f" [n, k, 4], scores [n, k] and classes [n, k]; this model gives {shown}",
                hint="name the outputs boxes, scores and classes when the model is exported",
            )
        self._scores, self._classes = scores[0].name, classes[0].name
        rest = set(shapes) - {self._boxes, self._scores, self._classes}
        self._count = next((n for n in rest if np.prod(shapes[n], dtype=int) == 1), None)

    def read(self, row: FloatArray) -> Detections:
        """The boxes in one answer, float32 ``[values]``."""
        parts = self._tensors.split(row[None])
        if self._packed is not None:
            packed = parts[self._packed].reshape(-1, 6)
            return Detections(packed[:, :4], packed[:, 4], _whole(packed[:, 5]))
        kept = slice(None)
        if self._count is not None:
            kept = slice(max(int(parts[self._count].reshape(-1)[0]), 0))
        return Detections(
            parts[self._boxes].reshape(-1, 4)[kept],
            parts[self._scores].reshape(-1)[kept],
            _whole(parts[self._classes].reshape(-1)[kept]),
        )


def _whole(values: FloatArray) -> npt.NDArray[np.int64]:
    return np.rint(values).astype(np.int64)


def _says(spec: TensorSpec, words: Sequence[str]) -> bool:
    return any(word in spec.name.lower() for word in words)
