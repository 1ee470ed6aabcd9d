"""``.npz``: an archive with the arrays ``x`` and ``y``. Nothing in it is ever unpickled.

A model with several inputs has an array for each, by its name, in the place of ``x``.
"""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

from compiler.datasets.frames import Array, Column, Frames, FrameStore, open_npz
from compiler.datasets.raw import RawSamples
from compiler.errors import DatasetError


def read_npz(path: Path, role: str, inputs: Sequence[str] = ()) -> RawSamples:
    """The frames and labels of an archive; the frames stay on the disk.

    Args:
        path: the file.
        role: for messages.
        inputs: the names of the model's inputs; only where there are several do they matter.

    Raises:
        OSError: unreadable.
        DatasetError: no archive of plain arrays, damaged, or arrays of different length.
    """
    names = tuple(inputs) if len(inputs) > 1 else ("x",)
    try:
        arrays = open_npz(path)
        found = f"the arrays {sorted(arrays)[:20]}"
        if len(names) > 1:
            found += f"; one for each of {', '.join(map(repr, names))} is needed"
        y = arrays.get("y")
        labels = y.slice(0, y.shape[0]) if isinstance(y, Column) else y
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error, SyntaxError, RuntimeError) as e:
        raise DatasetError(
            f"{role} file {path} is not a readable .npz file of plain arrays: {str(e)[:200]}",
            hint="np.savez('file.npz', x=samples, y=class_ids)",
        ) from e
    if any(name not in arrays for name in names):
        return RawSamples(None, labels, found)
    return RawSamples(_frames({name: arrays[name] for name in names}, role, path), labels, found)


def _frames(arrays: dict[str, Column | Array], role: str, path: Path) -> Frames:
    if len(arrays) == 1:
        (only,) = arrays.values()
        return FrameStore({"x": only}) if isinstance(only, Column) else only
    columns = {n: a if isinstance(a, Column) else Column.of(a) for n, a in arrays.items()}
    lengths = {name: column.shape[0] for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise DatasetError(
            f"{role} file {path}: the arrays have different numbers of rows: {lengths}"
        )
    return FrameStore(columns)
