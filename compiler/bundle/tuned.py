"""What the finished variant makes of the data that it was tuned with, a few numbers a frame.

The answers themselves are not kept: memory does not grow with the number of calibration samples
by more than some hundred bytes each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from compiler.datasets.dataset import Dataset
from compiler.proof.evaluate import Runner
from edge_contract.model import ModelManifest
from edge_runtime.classes import ClassScores
from edge_runtime.features import extract, feature_names
from edge_runtime.tensors import Tensors


@dataclass(frozen=True)
class Tuned:
    """Of n frames, in their order.

    features, class_ids: drift features float64 ``[n, 8]`` and classes ``[n]``.
    margins: best less second best score, ``[n]``; 0 for models that do not classify.
    spreads: greatest less least value of each output over all frames.
    """

    features: npt.NDArray[np.float64]
    class_ids: npt.NDArray[np.int64]
    margins: npt.NDArray[np.float32]
    spreads: tuple[float, ...]


def observe(runner: Runner, parts: Sequence[Dataset], manifest: ModelManifest) -> Tuned:
    """Answer the frames of ``parts``, one part after another.

    Raises:
        CompileError: a frame is refused, or an answer is NaN.
    """
    outputs = Tensors(manifest.outputs)
    classes = ClassScores(manifest) if manifest.task == "classification" else None
    places = list(np.cumsum(outputs.sizes)[:-1])
    n = sum(len(part) for part in parts)
    features = np.empty((n, len(feature_names())), np.float64)
    ids, margins = np.empty(n, np.int64), np.zeros(n, np.float32)
    done = 0
    low = np.full(len(outputs.sizes), np.inf)
    high = -low
    for part in parts:
        for frames, rows in runner.blocks(part.x, part.role):
            pieces = np.split(rows, places, axis=1)
            low = np.minimum(low, [piece.min() for piece in pieces])
            high = np.maximum(high, [piece.max() for piece in pieces])
            judged = rows if classes is None else classes.of(rows)
            for frame, row in zip(frames, judged, strict=True):
                features[done], ids[done] = extract(frame, row, classes=classes is not None)
                done += 1
            if classes is not None:
                best = np.partition(judged, -2, axis=1)
                margins[done - len(rows) : done] = best[:, -1] - best[:, -2]
    return Tuned(features, ids, margins, tuple((high - low).tolist()))
