"""Choose golden vectors: frames whose answers would change first if anything were wrong."""

from __future__ import annotations

import numpy as np

from compiler.datasets.dataset import Frames
from edge_contract.golden import GoldenVectors
from edge_runtime.golden import to_tensor
from edge_runtime.preprocess import FloatArray

ROWS = 16
FRAMES_LIMIT_BYTES = 1 << 20
"""Golden frames travel to every device; large frames mean fewer of them."""

ROWS_MIN = 4


def choose_golden(frames: Frames, scores: FloatArray, step: float) -> GoldenVectors:
    """Golden vectors from calibration frames.

    Frames are taken class by class, the least certain first, for those move first when weights,
    arithmetic or preprocessing change. The two best scores of each lie more than two steps apart,
    so that a device whose arithmetic differs by one step still names the same class.

    Args:
        frames: raw frames ``[n, ...]``.
        scores: float32 ``[n, classes]`` that the variant itself gave for them on this host.
        step: how far one step of the last int8 tensor moves a score; the tolerance.
    """
    top = np.sort(scores, axis=1)
    margin = top[:, -1] - top[:, -2]
    fit = FRAMES_LIMIT_BYTES // max(int(frames[0].nbytes), 1)
    wanted = min(max(ROWS_MIN, min(ROWS, fit)), len(frames))
    certain = margin > 2 * step
    # Uncertain rows come last, the widest margin first: better than none.
    order = np.lexsort((np.where(certain, margin, -margin), ~certain))
    by_class: dict[int, list[int]] = {}
    for row in order.tolist():
        if certain[row]:
            by_class.setdefault(int(scores[row].argmax()), []).append(row)
    queues = [by_class[class_id] for class_id in sorted(by_class)]
    chosen: list[int] = []
    while len(chosen) < wanted and any(queues):
        for queue in queues:
            if queue and len(chosen) < wanted:
                chosen.append(queue.pop(0))
    if len(chosen) < min(ROWS_MIN, wanted):
        rest = [row for row in order.tolist() if row not in chosen]
        chosen += rest[: min(ROWS_MIN, wanted) - len(chosen)]
    rows = np.array(chosen)
    return GoldenVectors(
        frames=to_tensor(frames[rows]), scores=to_tensor(scores[rows]), tolerance_abs=step
    )
