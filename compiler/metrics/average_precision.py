"""Mean average precision of detections, in a form that can be weighed anew image by image.

COCO's definition: detections of a class, the best score first, are matched to true boxes of that
class, each to the unmatched one that it overlaps most, if by at least the threshold; precision is
made falling from the right and read at 101 recalls; the mean goes over the thresholds 0.50, 0.55,
..., 0.95 and over the classes that have true boxes (T.-Y. Lin et al., "Microsoft COCO", 2014, and
the evaluation of pycocotools; no crowd regions, no area ranges, at most 100 detections of a
class in an image).

Matching is done once; a bootstrap only weighs images, so it needs no second matching.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from edge_runtime.detections import Detections

THRESHOLDS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
DETECTIONS_MAX = 100

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Truth:
    """The true boxes of one image: corners float ``[m, 4]`` as the model's, classes ``[m]``."""

    boxes: npt.NDArray[np.floating]
    classes: npt.NDArray[np.int64]


@dataclass(frozen=True)
class _ClassMatches:
    """All detections of one class, the best score first.

    image: which image each is from. right: ``[thresholds, k]``. truths: true boxes per image.
    """

    image: npt.NDArray[np.int64]
    right: npt.NDArray[np.bool_]
    truths: npt.NDArray[np.int64]


class Matches:
    """One model's detections, matched.

    Args:
        found: detections of each image.
        truth: true boxes of each image.
    """

    def __init__(self, found: Sequence[Detections], truth: Sequence[Truth]) -> None:
        self.images = len(truth)
        ids = sorted({int(one) for image in truth for one in image.classes})
        self._classes = [self._match(found, truth, class_id) for class_id in ids]

    def mean_precision(self, weights: npt.NDArray[np.int64] | None = None) -> float:
        """The mAP, 0..1, with image ``i`` there ``weights[i]`` times; NaN without true boxes."""
        counts = np.ones(self.images, np.int64) if weights is None else weights
        found = []
        for one in self._classes:
            truths = int(one.truths @ counts)
            if truths:
                found.append(_precision(one, counts, truths))
        return float(np.mean(found)) if found else float("nan")

    def same_images(self, other: Matches) -> npt.NDArray[np.bool_]:
        """Of each image, whether both models' detections are as many and alike right, ``[n]``."""
        same = np.ones(self.images, bool)
        for mine, theirs in zip(self._classes, other._classes, strict=True):
            for image in range(self.images):
                first = mine.right[:, mine.image == image]
                second = theirs.right[:, theirs.image == image]
                same[image] &= first.shape == second.shape and bool((first == second).all())
        return same

    def _match(
        self, found: Sequence[Detections], truth: Sequence[Truth], class_id: int
    ) -> _ClassMatches:
        scores: list[Floats] = []
        rights: list[npt.NDArray[np.bool_]] = []
        images: list[npt.NDArray[np.int64]] = []
        truths = np.zeros(self.images, np.int64)
        for image, (detections, real) in enumerate(zip(found, truth, strict=True)):
            top = np.argsort(-detections.scores, kind="stable")
            top = top[detections.classes[top] == class_id][:DETECTIONS_MAX]
            boxes = real.boxes[real.classes == class_id]
            truths[image] = len(boxes)
            scores.append(detections.scores[top].astype(np.float64))
            rights.append(_assign(overlaps(detections.boxes[top], boxes)))
            images.append(np.full(len(top), image))
        order = np.argsort(-np.concatenate(scores), kind="stable")
        return _ClassMatches(
            image=np.concatenate(images)[order],
            right=np.concatenate(rights, axis=1)[:, order],
            truths=truths,
        )


def overlaps(first: npt.NDArray[np.floating], second: npt.NDArray[np.floating]) -> Floats:
    """Intersection over union of boxes ``[a, 4]`` and ``[b, 4]`` -> ``[a, b]``.

    Any two opposite corners will do, x before y or after it, as long as all boxes are alike.
    """
    a, b = (np.sort(x.astype(np.float64).reshape(-1, 2, 2), axis=1) for x in (first, second))
    low = np.maximum(a[:, None, 0], b[None, :, 0])
    high = np.minimum(a[:, None, 1], b[None, :, 1])
    shared = np.prod(np.maximum(high - low, 0), axis=2)
    areas = [np.prod(x[:, 1] - x[:, 0], axis=1) for x in (a, b)]
    union = areas[0][:, None] + areas[1][None, :] - shared
    return np.asarray(np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0))


def _assign(overlap: Floats) -> npt.NDArray[np.bool_]:
    """Which of one image's detections, the best first, hit a true box, ``[thresholds, k]``."""
    right = np.zeros((len(THRESHOLDS), len(overlap)), bool)
    if overlap.shape[1] == 0:
        return right
    for place, threshold in enumerate(THRESHOLDS):
        free = np.ones(overlap.shape[1], bool)
        for row, values in enumerate(overlap):
            # Of equal overlaps the last true box is taken, as pycocotools does.
            masked = np.where(free, values, -1.0)
            best = len(masked) - 1 - int(masked[::-1].argmax())
            if masked[best] >= min(threshold, 1 - 1e-10):
                right[place, row] = True
                free[best] = False
    return right


def _precision(one: _ClassMatches, counts: npt.NDArray[np.int64], truths: int) -> float:
    if not len(one.image):
        return 0.0
    weight = counts[one.image]
    right = np.cumsum(one.right * weight, axis=1)
    precision = right / np.maximum(np.cumsum(weight), 1)
    falling = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
    total = 0.0
    for found, values in zip(right, falling, strict=True):
        places = np.searchsorted(found / truths, RECALLS, side="left")
        total += float(values[places[: np.searchsorted(places, len(values))]].sum())
    return total / (len(right) * len(RECALLS))
