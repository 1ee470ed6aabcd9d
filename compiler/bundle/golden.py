"""Choose golden vectors: frames whose answers would change first if anything were wrong."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import numpy.typing as npt

from compiler.datasets.frames import Array
from compiler.errors import CompileError
from edge_contract.golden import GOLDEN_LIMIT_BYTES, GoldenVectors
from edge_runtime.golden import to_tensor
from edge_runtime.preprocess import FloatArray

ROWS = 16
FRAMES_LIMIT_BYTES = 1 << 20
"""Golden frames travel to every device; large frames mean fewer of them."""

ROWS_MIN = 4

Rows = npt.NDArray[np.int64]


def golden_count(rows: int, frame_bytes: int, answer_bytes: int) -> int:
    """How many of ``rows`` frames become golden vectors.

    Raises:
        CompileError: not even one frame and its answer fit.
    """
    both = max(frame_bytes + answer_bytes, 1)
    wanted = max(ROWS_MIN, min(ROWS, FRAMES_LIMIT_BYTES // max(frame_bytes, answer_bytes, 1)))
    room = (GOLDEN_LIMIT_BYTES - 4096) // both
    if room == 0:
        raise CompileError(
            f"a frame and its answer take {both:,} bytes; golden vectors hold at most"
            f" {GOLDEN_LIMIT_BYTES:,}",
            hint="export the model with smaller outputs",
        )
    return min(wanted, room, rows)


def choose_rows(
    margins: npt.NDArray[np.floating], class_ids: npt.NDArray[np.integer], step: float, wanted: int
) -> Rows:
    """The golden frames of a classifier, in the order that they are stored in.

    Frames are taken class by class, the least certain first, for those move first when weights,
    arithmetic or preprocessing change. The two best scores of each lie more than two steps apart,
    so that a device whose arithmetic differs by one step still names the same class.

    Args:
        margins: best less second best score of every frame, ``[n]``.
        class_ids: the best class, ``[n]``.
        step: how far one step of the last int8 tensor moves a score.
        wanted: how many.
    """
    certain = margins > 2 * step
    # Uncertain rows come last, the widest margin first: better than none.
    order = np.lexsort((np.where(certain, margins, -margins), ~certain))
    by_class: dict[int, list[int]] = {}
    for row in order.tolist():
        if certain[row]:
            by_class.setdefault(int(class_ids[row]), []).append(row)
    queues = [by_class[class_id] for class_id in sorted(by_class)]
    chosen: list[int] = []
    while len(chosen) < wanted and any(queues):
        for queue in queues:
            if queue and len(chosen) < wanted:
                chosen.append(queue.pop(0))
    if len(chosen) < min(ROWS_MIN, wanted):
        rest = [row for row in order.tolist() if row not in chosen]
        chosen += rest[: min(ROWS_MIN, wanted) - len(chosen)]
    return np.array(chosen, np.int64)


def spread_rows(rows: int, wanted: int) -> Rows:
    """The golden frames of other models: evenly spaced ones."""
    return np.unique(np.linspace(0, rows - 1, wanted).round().astype(np.int64))


def golden_vectors(frames: Array, scores: FloatArray, steps: Sequence[float]) -> GoldenVectors:
    """Golden vectors of the chosen frames.

    Args:
        frames: raw frames ``[n, ...]``.
        scores: float32 ``[n, values]`` that the variant itself gave for them on this host.
        steps: tolerances, output by output.
    """
    return GoldenVectors(
        frames=to_tensor(frames),
        scores=to_tensor(scores),
        tolerance_abs=max(steps),
        tolerances_abs=list(steps) if len(steps) > 1 else msgspec.UNSET,
    )
