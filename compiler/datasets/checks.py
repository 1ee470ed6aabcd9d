"""Checks of data: against their role, against the model, and against each other."""

from __future__ import annotations

import itertools

import numpy as np

from compiler.datasets.dataset import Dataset, Labels, extremes
from compiler.datasets.frames import Frames, FrameStore, blocks
from compiler.errors import DatasetError
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor
from edge_runtime.reference import MIN_ROWS

CALIBRATION_ROWS_MIN = MIN_ROWS
"""Fewer samples give no drift reference, and ranges that the next sample leaves."""

LEAK_SHARE_MAX = 0.1
"""Above this share of test rows that calibration has, too, the test says little."""

_DTYPES = ("uint8", "float32")


def check_frames(x: Frames, where: str) -> None:
    """Refuse samples that are not uint8 or finite float32, or that are none.

    Several arrays are checked each by its name.

    Raises:
        DatasetError: naming ``where``.
    """
    if isinstance(x, FrameStore) and len(x.columns) > 1:
        for name in x.columns:
            _check_array(x.only(name), where, name, rank_min=1)
        return
    _check_array(x, where, "x", rank_min=2)


def _check_array(x: Frames, where: str, name: str, rank_min: int) -> None:
    if x.dtype.name not in _DTYPES:
        raise DatasetError(
            f"{where}: {name} is {x.dtype}; expected {' or '.join(_DTYPES)}",
            hint=f"{name}.astype('float32')" if x.dtype.kind in "fiu" else "",
        )
    if x.ndim < rank_min or x.size == 0:
        raise DatasetError(f"{where}: {name} has shape {list(x.shape)}; expected samples [n, ...]")
    if x.dtype.kind == "f":
        bad = np.concatenate(
            [~np.isfinite(block.reshape(len(block), -1)).all(axis=1) for block in blocks(x)]
        )
        if bad.any():
            raise DatasetError(
                f"{where}: {int(bad.sum())} of {len(x)} samples hold NaN or infinite values,"
                f" the first is row {int(bad.argmax())}"
            )


def check_calibration(data: Dataset) -> None:
    """Refuse calibration data that show no range.

    Raises:
        DatasetError: too few samples, or all values equal.
    """
    if len(data) < CALIBRATION_ROWS_MIN:
        raise DatasetError(
            f"{data.role} data: {len(data)} sample{'s' if len(data) > 1 else ''}; at least"
            f" {CALIBRATION_ROWS_MIN} are needed, and 100 to 1,000 are usual",
            hint="take samples from the training data, never from the test data",
        )
    low, high = extremes(data.x)
    if low.min() == high.max():
        raise DatasetError(
            f"{data.role} data: every value of x is {low.flat[0]}; constant inputs show no range"
        )


def check_shape(data: Dataset, preprocessor: Preprocessor) -> None:
    """Refuse data that the model cannot take.

    Raises:
        DatasetError: another shape or dtype than the model needs after preprocessing.
    """
    try:
        preprocessor(data.x[0])
    except InputRefusedError as error:
        raise DatasetError(
            f"{data.role} data do not fit the model: {error.message}",
            hint=_layout_hint(data.x.shape[1:], preprocessor),
        ) from error


def check_labels(data: Dataset, classes: int) -> None:
    """Refuse labels that the model cannot give.

    Raises:
        DatasetError: class ids outside 0 to ``classes - 1``, or another number of class folders
            than the model has classes, so that nobody knows which folder is which class.
    """
    if data.y is None:
        return
    if data.y.dtype.kind != "i" or data.y.ndim != 1:
        raise DatasetError(
            f"{data.role} data: y is {data.y.dtype} of shape {list(data.y.shape)}; expected whole"
            " class ids [n]",
            hint=_labels_hint(data.y),
        )
    if data.classes and len(data.classes) != classes:
        raise DatasetError(
            f"{data.role} data: {len(data.classes)} class folders"
            f" ({', '.join(data.classes[:6])}{', ...' if len(data.classes) > 6 else ''}), but the"
            f" model has {classes} classes",
            hint="--labels names.txt: the folders' names in the order of the model's outputs",
        )
    outside = (data.y < 0) | (data.y >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise DatasetError(
            f"{data.role} data: {int(outside.sum())} labels out of range: row {row} says class"
            f" {int(data.y[row])}, the model has classes 0 to {classes - 1}"
        )


def check_same_classes(parts: list[Dataset]) -> None:
    """Refuse folders of images whose sub-folders differ: their order would be another one.

    Raises:
        DatasetError: the names of the class folders differ between roles.
    """
    named = [part for part in parts if part.classes]
    for part in named[1:]:
        if part.classes != named[0].classes:
            odd = sorted(set(part.classes) ^ set(named[0].classes))
            raise DatasetError(
                f"the class folders of {named[0].role} and {part.role} data differ: {odd[0]!r} is"
                " in one of them only",
                hint="--labels names.txt: the folders' names in the order of the model's outputs",
            )


def check_apart(test: Dataset, others: list[Dataset]) -> list[str]:
    """Refuse a test on the samples that the build was tuned with; return warnings.

    Raises:
        DatasetError: the test data are the calibration or selection data, or more than a tenth
            of their samples are among them.
    """
    warnings: list[str] = []
    rows = test.row_hashes()
    for other in others:
        shared = set(other.row_hashes())
        both = sum(row in shared for row in rows)
        if both > LEAK_SHARE_MAX * len(rows):
            raise DatasetError(
                f"{both} of {len(rows)} test samples are {other.role} samples, too; a test on"
                " what the build was tuned with proves nothing",
                hint="give --test samples that were held out",
            )
        if both:
            warnings.append(f"{both} of {len(rows)} test samples are {other.role} samples, too")
    copies = len(rows) - len(set(rows))
    if copies:
        warnings.append(
            f"{copies} of {len(rows)} test samples are copies of others; the bound counts them as"
            " if they were independent"
        )
    return warnings


def _labels_hint(y: Labels) -> str:
    other = ", or --task regression"
    if y.ndim == 2:
        one = "y[:, 0]" if y.shape[1] == 1 else "y.argmax(axis=1), where each row marks one class"
        return one + other
    if y.ndim == 1:
        return "y.astype('int64')" + other
    return "--task detection for boxes"


def _layout_hint(frame: tuple[int, ...], preprocessor: Preprocessor) -> str:
    spec = preprocessor.spec
    if spec.kind == "image":
        want = preprocessor.input_shape
        sized = (spec.height_px, spec.width_px, spec.channels)
        if want == (sized if spec.model_layout == "NCHW" else (sized[2], *sized[:2])):
            other = "NHWC" if spec.model_layout == "NCHW" else "NCHW"
            return f'the model takes {other}: model_layout = "{other}" in --preprocess'
        if len(frame) == 3 and frame[0 if spec.layout == "NHWC" else 2] == spec.channels:
            other = "NCHW" if spec.layout == "NHWC" else "NHWC"
            return f'the samples are {other}: layout = "{other}" in --preprocess'
        if len(frame) == 3 and spec.channels == 1 and 3 in (frame[0], frame[2]):
            return 'the samples have colours: colour = "RGB" in --preprocess'
        return "compare layout, colour, height_px and width_px of --preprocess with the data"
    if len(frame) <= 4:
        for axes in itertools.permutations(range(len(frame))):
            if tuple(frame[axis] for axis in axes) == preprocessor.input_shape:
                order = (0, *(axis + 1 for axis in axes))
                return f"the axes are in another order; try x.transpose{order}"
    return "give --preprocess where the raw samples are not yet the model's input"
