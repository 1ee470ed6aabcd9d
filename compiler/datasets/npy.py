"""``.npy``: the samples, and their labels in a file of the same name that ends in ``.labels.npy``.

``digits.npy`` is labelled by ``digits.labels.npy`` beside it. Samples stay on the disk.
"""

from __future__ import annotations

from pathlib import Path

from compiler.datasets.frames import Array, Column, Frames, FrameStore, open_npy
from compiler.datasets.raw import NUMPY_ERRORS, RawSamples
from compiler.errors import DatasetError


def labels_path(path: Path) -> Path:
    """Where the labels of ``path`` lie."""
    return path.with_name(path.stem + ".labels.npy")


def read_npy(path: Path, role: str) -> RawSamples:
    """The samples of ``path`` and the labels beside it, where they are there.

    Raises:
        OSError: unreadable.
        DatasetError: not a plain array, or damaged.
    """
    labels = labels_path(path)
    x, y = _read(path, role), None
    if labels.is_file():
        stored = _read(labels, role)
        y = stored.slice(0, stored.shape[0]) if isinstance(stored, Column) else stored
    frames: Frames = FrameStore({"x": x}) if isinstance(x, Column) else x
    return RawSamples(frames, y, f"no {labels.name} beside it" if y is None else "")


def _read(path: Path, role: str) -> Column | Array:
    try:
        return open_npy(path)
    except NUMPY_ERRORS as error:
        raise DatasetError(
            f"{role} file {path} is not a readable .npy file of one plain array:"
            f" {str(error)[:200]}",
            hint="np.save('file.npy', samples) and np.save('file.labels.npy', class_ids)",
        ) from error
