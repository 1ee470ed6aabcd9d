"""``.npz``: an archive with the arrays ``x`` and ``y``. Nothing in it is ever unpickled."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from compiler.datasets.raw import NUMPY_ERRORS, RawSamples
from compiler.errors import DatasetError


def read_npz(path: Path, role: str) -> RawSamples:
    """The arrays ``x`` and ``y`` of an archive.

    Raises:
        OSError: unreadable.
        DatasetError: no archive of plain arrays, or damaged.
    """
    try:
        archive = np.load(path, allow_pickle=False)
        if not isinstance(archive, np.lib.npyio.NpzFile):
            raise DatasetError(f"{role} file {path} is a single array; expected an .npz file")
        with archive:
            x, y = (
                np.asarray(archive[name]) if name in archive.files else None for name in ("x", "y")
            )
            return RawSamples(x, y, f"the arrays {sorted(archive.files)[:20]}")
    except NUMPY_ERRORS as error:
        raise DatasetError(
            f"{role} file {path} is not a readable .npz file of plain arrays: {str(error)[:200]}",
            hint="np.savez('file.npz', x=samples, y=class_ids)",
        ) from error
