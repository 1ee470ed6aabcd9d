"""Which classes are taken for which others more often, or less often, than before."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.report.section import Section
from edge_runtime.preprocess import FloatArray

Ids = npt.NDArray[np.int64]

CLASSES_SHOWN = 24
"""Beyond these, only the classes that changed most are drawn."""


def confusion_section(floating: FloatArray, int8: FloatArray, y: Ids, labels: list[str]) -> Section:
    """Int8's confusion matrix less the float model's.

    Args:
        floating, int8: scores ``[n, classes]``.
        y: class ids ``[n]``.
    """
    classes = len(labels)
    change = _counts(y, int8, classes) - _counts(y, floating, classes)
    moved = np.abs(change).sum(axis=0) + np.abs(change).sum(axis=1)
    order = np.argsort(-moved, kind="stable")[:CLASSES_SHOWN]
    shown = np.sort(order)
    cells = [[(int(change[row, column]), bool(row == column)) for column in shown] for row in shown]
    most = max(1, int(np.abs(change).max()))
    left_out = classes - len(shown)
    changed = np.argwhere(change)
    note = (
        "Rows: the true class; columns: the answer. A figure is how many more samples the int8"
        " model puts there than the float model: on the diagonal more is better, off it worse."
        if len(changed)
        else "No cell of the confusion matrix changed."
    )
    if left_out and len(changed):
        note += f" The {len(shown)} classes that changed most; {left_out} others are left out."
    return Section(
        key="confusion_change",
        title="Confusion, int8 less float",
        place="answers",
        note=note,
        data=[
            {"label": labels[row], "answer": labels[column], "change": int(change[row, column])}
            for row, column in changed.tolist()
        ],
        template="confusion.html",
        view={
            "labels": [labels[place] for place in shown] if len(changed) else [],
            "cells": cells,
            "most": most,
        },
    )


def _counts(y: Ids, scores: FloatArray, classes: int) -> Ids:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (y, scores.argmax(axis=1)), 1)
    return counts
