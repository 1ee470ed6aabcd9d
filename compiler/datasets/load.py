"""Read what a user hands in as data, whatever its form, and check it before use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from compiler.datasets.checks import check_frames
from compiler.datasets.csv import read_csv
from compiler.datasets.dataset import Dataset, Labels, contents_digest
from compiler.datasets.frames import Array, Frames
from compiler.datasets.images import read_images
from compiler.datasets.npy import labels_path, read_npy
from compiler.datasets.npz import read_npz
from compiler.datasets.raw import RawSamples
from compiler.errors import DatasetError
from compiler.progress import Progress, silent
from edge_contract.errors import ExitCode
from edge_contract.preprocess import PreprocessSpec

_AS_IS = PreprocessSpec(kind="tensor")


def load_dataset(
    path: Path,
    role: str,
    *,
    labels_required: bool,
    contract: PreprocessSpec = _AS_IS,
    names: Sequence[str] | None = None,
    inputs: Sequence[str] = (),
    progress: Progress = silent,
) -> Dataset:
    """Read samples and labels of an ``.npz``, ``.npy`` or CSV file, or a folder of images.

    Args:
        path: the file, or the folder.
        role: ``calibration``, ``selection`` or ``test``.
        labels_required: refuse data without labels.
        contract: says how images are read.
        names: class names by class id, where ``--labels`` gives them.
        inputs: names of the model's inputs; several are arrays of their own in an ``.npz`` file.
        progress: is told about long readings.

    Raises:
        DatasetError: unreadable, no samples (or no labels where they are required), other dtypes,
            NaN, or numbers of rows that differ.
        OutputError: no room for temporary files.
    """
    found = _read(path, role, contract, names, inputs, progress)
    if found.x is None or (found.y is None and labels_required):
        raise DatasetError(
            f"{role} data {path}: expected samples x{' and labels y' if labels_required else ''},"
            f" got {found.found}",
            hint=_form_hint(path),
            docs="reference/edge-compile.md",
        )
    check_frames(found.x, f"{role} file {path}")
    labels = None if found.y is None else _labels(found.y, found.x, path, role)
    return Dataset(role, found.x, labels, contents_digest(found.x, labels), found.classes)


def load_frames(
    path: Path, contract: PreprocessSpec = _AS_IS, inputs: Sequence[str] = ()
) -> Frames:
    """The samples to run, in any form that calibration data may have.

    Raises:
        DatasetError: unreadable, no samples, another dtype, or NaN.
        OutputError: no room for temporary files.
    """
    found = _read(path, "inputs", contract, None, inputs, silent)
    if found.x is None:
        raise DatasetError(
            f"inputs file {path}: expected samples, got {found.found}", hint=_form_hint(path)
        )
    check_frames(found.x, f"inputs file {path}")
    return found.x


def _read(
    path: Path,
    role: str,
    contract: PreprocessSpec,
    names: Sequence[str] | None,
    inputs: Sequence[str],
    progress: Progress,
) -> RawSamples:
    try:
        if path.is_dir():
            return read_images(path, role, contract, names, progress)
        if path.exists() and not path.is_file():
            raise DatasetError(f"{role} data {path} are neither a regular file nor a folder")
        with path.open("rb") as file:
            magic = file.read(6)
        if magic == b"\x93NUMPY":
            return read_npy(path, role)
        if path.suffix.lower() in (".csv", ".tsv", ".txt"):
            return read_csv(path, role, names)
        return read_npz(path, role, inputs)
    except FileNotFoundError as error:
        raise DatasetError(f"no {role} file {path}", exit_code=ExitCode.NOT_FOUND) from error
    except OSError as error:
        raise DatasetError(
            f"cannot read {role} data {path}: {error.strerror or error}", hint=_form_hint(path)
        ) from error
    except MemoryError as error:
        raise DatasetError(f"{role} file {path} does not fit into memory: {error}") from error


def _form_hint(path: Path) -> str:
    if path.is_dir():
        return "one sub-folder a class"
    if path.suffix.lower() == ".csv":
        return "a column called y or label"
    if path.suffix.lower() == ".npy":
        return f"np.save('{labels_path(path).name}', class_ids)"
    return "np.savez('file.npz', x=samples, y=class_ids)"


def _labels(y: Array, x: Frames, path: Path, role: str) -> Labels:
    if y.dtype.kind not in "iufb" or y.ndim < 1:
        raise DatasetError(
            f"{role} file {path}: y is {y.dtype} of shape {list(y.shape)}; expected numbers"
            " [n, ...]"
        )
    if len(y) != len(x):
        raise DatasetError(f"{role} file {path}: {len(x)} samples in x but {len(y)} labels in y")
    if y.dtype.kind != "f":
        return y.astype(np.int64)
    if not np.isfinite(y).all():
        raise DatasetError(f"{role} file {path}: y holds NaN or infinite values")
    return y.astype(np.float32)
