"""Calibration, selection and test data: ``.npz`` files with ``x`` and ``y``, checked before use."""

from __future__ import annotations

import hashlib
import itertools
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from compiler.errors import DatasetError
from compiler.ranges import Samples
from edge_contract.errors import ExitCode
from edge_runtime.errors import InputRefusedError
from edge_runtime.preprocess import Preprocessor
from edge_runtime.reference import MIN_ROWS

Frames = npt.NDArray[np.generic]
Labels = npt.NDArray[np.int64]

CALIBRATION_ROWS_MIN = MIN_ROWS
"""Fewer samples give no drift reference, and ranges that the next sample leaves."""

LEAK_SHARE_MAX = 0.1
"""Above this share of test rows that calibration has, too, the test says little."""

_DTYPES = ("uint8", "float32")


@dataclass(frozen=True)
class Dataset:
    """One file's samples.

    role: ``calibration``, ``selection`` or ``test``, for messages.
    x: raw frames ``[n, ...]``, uint8 or float32.
    y: class ids int64 ``[n]``, or ``None`` where the file has no labels.
    digest: of the contents (names, dtypes, shapes, values), not of the file: packing the same
        samples anew does not change it.
    """

    role: str
    x: Frames
    y: Labels | None
    digest: str

    def __len__(self) -> int:
        return len(self.x)

    def row_hashes(self) -> list[bytes]:
        """A hash of every sample, to find the same sample elsewhere."""
        return [hashlib.sha256(np.ascontiguousarray(row).tobytes()).digest() for row in self.x]

    def rows(self, index: npt.NDArray[np.int64], role: str) -> Dataset:
        """The samples at ``index`` as a dataset of its own."""
        x = self.x[index]
        y = None if self.y is None else self.y[index]
        return Dataset(role, x, y, contents_digest(x, y))


def load_dataset(path: Path, role: str, *, labels_required: bool) -> Dataset:
    """Read an ``.npz`` file with ``x`` and ``y``. Nothing in it is ever unpickled.

    Raises:
        DatasetError: unreadable, no ``x`` (or no ``y`` where it is required), other dtypes, NaN,
            or numbers of rows that differ.
    """
    arrays = _read_npz(path, role, ("x", "y"))
    x, y = arrays.get("x"), arrays.get("y")
    if x is None or (y is None and labels_required):
        raise DatasetError(
            f"{role} file {path}: expected the arrays 'x'{' and y' if labels_required else ''},"
            f" got {sorted(arrays)}",
            hint="np.savez('file.npz', x=samples, y=class_ids)",
        )
    check_frames(x, f"{role} file {path}")
    labels = None if y is None else _labels(y, x, path, role)
    return Dataset(role, x, labels, contents_digest(x, labels))


def load_frames(path: Path) -> Frames:
    """The ``x`` of an ``.npz`` file of samples to run.

    Raises:
        DatasetError: unreadable, no ``x``, another dtype, or NaN.
    """
    x = _read_npz(path, "inputs", ("x",)).get("x")
    if x is None:
        raise DatasetError(f"inputs file {path}: no array 'x' in it")
    check_frames(x, f"inputs file {path}")
    return x


def check_frames(x: Frames, where: str) -> None:
    """Refuse samples that are not uint8 or finite float32, or that are none.

    Raises:
        DatasetError: naming ``where``.
    """
    if x.dtype.name not in _DTYPES:
        raise DatasetError(
            f"{where}: x is {x.dtype}; expected {' or '.join(_DTYPES)}",
            hint="x.astype('float32')" if x.dtype.kind in "fiu" else "",
        )
    if x.ndim < 2 or x.shape[0] == 0 or x.size == 0:
        raise DatasetError(f"{where}: x has shape {list(x.shape)}; expected samples [n, ...]")
    if x.dtype.kind == "f":
        bad = ~np.isfinite(x.reshape(len(x), -1)).all(axis=1)
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
    if data.x.min() == data.x.max():
        raise DatasetError(
            f"{data.role} data: every value of x is {data.x.flat[0]}; constant inputs show no range"
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
        DatasetError: class ids outside 0 to ``classes - 1``.
    """
    if data.y is None:
        return
    outside = (data.y < 0) | (data.y >= classes)
    if outside.any():
        row = int(outside.argmax())
        raise DatasetError(
            f"{data.role} data: {int(outside.sum())} labels out of range: row {row} says class"
            f" {int(data.y[row])}, the model has classes 0 to {classes - 1}"
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


def stream(x: Frames, preprocessor: Preprocessor, role: str) -> Samples:
    """Model inputs float32 ``[1, ...]`` of the frames ``x``, one at a time, anew at each call."""

    def samples() -> Iterator[npt.NDArray[np.float32]]:
        for row, frame in enumerate(x):
            try:
                yield preprocessor(frame)
            except InputRefusedError as error:
                raise DatasetError(f"{role} data, row {row}: {error.message}") from error

    return samples


def contents_digest(x: Frames, y: npt.NDArray[np.generic] | None) -> str:
    """A digest of the arrays' dtypes, shapes and values."""
    state = hashlib.sha256()
    for name, array in (("x", x), ("y", y)):
        if array is not None:
            little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            state.update(f"{name} {little.dtype.str} {little.shape}\n".encode())
            state.update(little.data if little.size else b"")
    return "sha256:" + state.hexdigest()


def _read_npz(path: Path, role: str, names: tuple[str, ...]) -> dict[str, Frames]:
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DatasetError(f"{role} file {path} is a single array; expected an .npz file")
        with archive:
            return {name: np.asarray(archive[name]) for name in names if name in archive.files}
    except FileNotFoundError as error:
        raise DatasetError(f"no {role} file {path}", exit_code=ExitCode.NOT_FOUND) from error
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error, KeyError) as error:
        raise DatasetError(
            f"{role} file {path} is not a readable .npz file of plain arrays: {error}",
            hint="np.savez('file.npz', x=samples, y=class_ids)",
        ) from error
    except MemoryError as error:
        raise DatasetError(f"{role} file {path} does not fit into memory: {error}") from error


def _labels(y: Frames, x: Frames, path: Path, role: str) -> Labels:
    if y.dtype.kind not in "iu" or y.ndim != 1:
        raise DatasetError(
            f"{role} file {path}: y is {y.dtype} of shape {list(y.shape)}; expected whole class"
            " ids [n]"
        )
    if len(y) != len(x):
        raise DatasetError(f"{role} file {path}: {len(x)} samples in x but {len(y)} labels in y")
    return y.astype(np.int64)


def _layout_hint(frame: tuple[int, ...], preprocessor: Preprocessor) -> str:
    if preprocessor.spec.kind == "image":
        return "compare layout, colour, height_px and width_px of --preprocess with the data"
    if len(frame) <= 4:
        for axes in itertools.permutations(range(len(frame))):
            if tuple(frame[axis] for axis in axes) == preprocessor.input_shape:
                order = (0, *(axis + 1 for axis in axes))
                return f"the axes are in another order; try x.transpose{order}"
    return "give --preprocess where the raw samples are not yet the model's input"
