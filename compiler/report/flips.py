"""The worst flips as pictures: what the int8 model gets wrong that the float model got right."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from compiler.datasets.frames import Frames
from compiler.report.section import Section
from edge_contract.preprocess import PreprocessSpec
from edge_runtime.preprocess import FloatArray

Frame = npt.NDArray[np.generic]
Ids = npt.NDArray[np.int64]

SHOWN = 20
_SIDE_MAX_PX = 96
_POINTS_MAX = 64
"""Values of a frame that is no picture, in its small plot."""


@dataclass(frozen=True)
class Flip:
    """One sample whose answer changed between right and wrong.

    row: in the test data.
    margin: how far the int8 model prefers its wrong answer (its right one, for a gained flip) to
        the other model's, in scores.
    """

    row: int
    lost: bool
    label: str
    float_label: str
    int8_label: str
    float_score: float
    int8_score: float
    margin: float


def worst_flips(
    floating: FloatArray, int8: FloatArray, y: Ids, labels: list[str]
) -> tuple[Flip, ...]:
    """Every flip: lost ones first, the widest margin first.

    Args:
        floating, int8: scores ``[n, classes]``.
        y: class ids ``[n]``.
    """
    first, second = floating.argmax(axis=1), int8.argmax(axis=1)
    found = []
    for row in np.flatnonzero((first == y) != (second == y)).tolist():
        a, b = int(first[row]), int(second[row])
        found.append(
            Flip(
                row=row,
                lost=a == int(y[row]),
                label=labels[int(y[row])],
                float_label=labels[a],
                int8_label=labels[b],
                float_score=float(floating[row, a]),
                int8_score=float(int8[row, b]),
                margin=float(int8[row, b] - int8[row, a]),
            )
        )
    return tuple(sorted(found, key=lambda flip: (not flip.lost, -flip.margin, flip.row)))


def flips_section(
    flips: tuple[Flip, ...], frames: Sequence[Frame] | Frames, spec: PreprocessSpec
) -> Section:
    """The ``SHOWN`` worst, each with its raw frame ``frames[row]``."""
    shown = flips[:SHOWN]
    return Section(
        key="worst_flips",
        title="The worst flips",
        place="answers",
        note=(
            f"{'All' if len(flips) <= SHOWN else f'The worst {SHOWN} of'} {len(flips)} flips, lost"
            " before gained, the widest margin first. Margin: the int8 model's score of its own"
            " answer less that of the float model's answer."
            if flips
            else "No answer changed between right and wrong."
        ),
        data=[
            {
                "row": flip.row,
                "kind": "lost" if flip.lost else "gained",
                "label": flip.label,
                "float": flip.float_label,
                "int8": flip.int8_label,
                "margin": round(flip.margin, 6),
            }
            for flip in shown
        ],
        template="flips.html",
        view={"flips": [(flip, drawing(frames[flip.row], spec)) for flip in shown]},
    )


def drawing(frame: Frame, spec: PreprocessSpec) -> dict[str, object]:
    """How to show one raw frame: ``{"png": data URI, ...}``, or ``{"points": SVG points, ...}``."""
    picture = as_picture(frame, spec)
    if picture is not None:
        height, width = picture.shape[:2]
        shrink = min(1.0, _SIDE_MAX_PX / max(height, width))
        if shrink < 1:
            size = (max(1, round(width * shrink)), max(1, round(height * shrink)))
            picture = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.uint8)
        _, data = cv2.imencode(".png", picture, [cv2.IMWRITE_PNG_COMPRESSION, 9])
        uri = base64.b64encode(data.tobytes()).decode()
        return {
            "png": f"data:image/png;base64,{uri}",
            "width": picture.shape[1],
            "height": picture.shape[0],
        }
    values = np.asarray(frame, np.float64).ravel()
    if len(values) > _POINTS_MAX:
        edges = np.linspace(0, len(values), _POINTS_MAX + 1).astype(int)[:-1]
        values = np.add.reduceat(values, edges) / np.diff([*edges, len(values)])
    low, high = float(values.min()), float(values.max())
    across = np.linspace(0, 96, len(values))
    up = 46 - 44 * (values - low) / ((high - low) or 1)
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, up, strict=True))
    return {"points": points, "low": low, "high": high, "count": int(np.asarray(frame).size)}


def as_picture(frame: Frame, spec: PreprocessSpec) -> npt.NDArray[np.uint8] | None:
    """The frame as uint8 ``[height, width]`` or ``[height, width, BGR]``; ``None`` if it is none.

    What the contract calls an image is one. Of other frames, those are drawn that have the shape
    of one: one or three channels, at least 8 pixels a side, neither side over eight times the
    other; their values are stretched from the least to the greatest.
    """
    is_image = spec.kind == "image"
    array: Frame = np.asarray(frame)
    if array.ndim == 3 and (spec.layout == "NCHW" if is_image else array.shape[0] in (1, 3)):
        array = array.transpose(1, 2, 0)
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim not in (2, 3) or array.shape[2:] not in ((), (3,)):
        return None
    height, width = array.shape[:2]
    if not is_image and (min(height, width) < 8 or max(height, width) > 8 * min(height, width)):
        return None
    if array.dtype != np.uint8:
        values = array.astype(np.float64)
        low, high = float(values.min()), float(values.max())
        array = np.round((values - low) * (255 / ((high - low) or 1))).astype(np.uint8)
    if array.ndim == 3 and spec.colour != "BGR":
        array = array[:, :, ::-1]  # OpenCV writes BGR
    return np.ascontiguousarray(array, np.uint8)
