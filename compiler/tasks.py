"""Which task a model is for, and whether outputs and labels fit it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.datasets.checks import check_labels
from compiler.datasets.dataset import Dataset, Labels
from compiler.errors import CompileError, DatasetError
from compiler.metrics.average_precision import Truth
from compiler.singlescore import holds_two_classes, is_single
from edge_contract.errors import ExitCode
from edge_contract.model import Task, TensorSpec
from edge_runtime.detections import DetectionLayout
from edge_runtime.errors import ModelRuntimeError
from edge_runtime.tensors import Tensors

TASKS: tuple[Task, ...] = ("classification", "regression", "detection", "embedding")


def settle_task(
    wanted: Task | None, outputs: Sequence[TensorSpec], y: Labels | None, *, sigmoid: bool = False
) -> Task:
    """The task that the user names, or classification where labels and outputs say so.

    Args:
        wanted: ``--task``.
        outputs: of the model.
        y: the test labels.
        sigmoid: whether the first output is made by a Sigmoid: with labels of 0 and 1 in whatever
            numeric form one such value classifies.

    Raises:
        CompileError: it has to be named, or the outputs do not fit it.
    """
    shapes = ", ".join(f"{spec.name!r} {spec.shape}" for spec in outputs)
    single = is_single(outputs)
    scores = single or _is_scores(outputs[0])
    if wanted is None:
        whole = y is not None and y.dtype.kind == "i" and y.ndim == 1
        if single and y is not None and holds_two_classes(y) and (whole or sigmoid):
            return "classification"
        if scores and whole and not single:
            return "classification"
        labels = "no labels" if y is None else f"labels {y.dtype} {list(y.shape)}"
        raise CompileError(
            f"cannot tell what the model is for: it gives {shapes}, and the test data have"
            f" {labels}",
            hint=f"--task {'|'.join(TASKS)}; a classifier's labels are whole class ids [n], and its"
            " first output is [n, classes], or [n, 1] for two classes",
            exit_code=ExitCode.USAGE,
        )
    if wanted == "classification" and not scores:
        raise CompileError(
            f"--task classification expects scores [n, classes] as first output, or one score"
            f" [n, 1] for two classes, got {shapes}",
            hint="export a classifier with one output a class first, or name another --task",
        )
    if wanted == "detection":
        try:
            DetectionLayout(outputs)
        except ModelRuntimeError as error:
            raise CompileError(error.message, hint=error.hint) from error
    return wanted


def check_task_labels(task: Task, outputs: Sequence[TensorSpec], parts: Sequence[Dataset]) -> None:
    """Refuse labels that the task cannot have.

    Raises:
        DatasetError: class ids out of range, another number of values than the model gives, or
            boxes of another form than ``[n, m, 5]``.
    """
    values = Tensors(outputs).sizes[0]
    classes = 2 if values == 1 else values
    for part in parts:
        y = part.y
        if y is None:
            continue
        if task == "classification":
            check_labels(part, classes)
        elif task == "regression" and y.size != len(y) * values:
            raise DatasetError(
                f"{part.role} data: y has shape {list(y.shape)}, but the first output gives"
                f" {values} value{'s' if values > 1 else ''} a sample"
            )
        elif task == "detection" and (y.ndim != 3 or y.shape[2] != 5):
            raise DatasetError(
                f"{part.role} data: y has shape {list(y.shape)}; expected true boxes [n, m, 5]: two"
                " corners as the model gives them, and the class; class -1 fills up"
            )


def truth_of(y: Labels) -> list[Truth]:
    """True boxes of each image from ``[n, m, 5]``; a negative class is no box.

    Raises:
        DatasetError: there is no box at all.
    """
    found = []
    for rows in y.astype(np.float64):
        real = rows[rows[:, 4] >= 0]
        found.append(Truth(real[:, :4], np.rint(real[:, 4]).astype(np.int64)))
    if not any(len(one.boxes) for one in found):
        raise DatasetError("test data: y holds no true box, so there is nothing to find")
    return found


def _is_scores(spec: TensorSpec) -> bool:
    shape = [size for size in spec.shape if size is not None]
    values = math.prod(shape)
    return spec.dtype == "float32" and values >= 2 and max(shape, default=0) == values
