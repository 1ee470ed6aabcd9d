"""Writes ``.npz`` files whose bytes depend on the arrays alone.

``numpy.savez`` leaves the zip entry's date to the Python version; here it is fixed, and entries
are sorted, so that the same arrays give the same file and a digest of it means something.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_ZIP_EPOCH = (1980, 1, 1, 0, 0, 0)
"""The earliest date that a zip entry can hold."""


def write_npz(path: Path, arrays: dict[str, NDArray[Any]], *, compress: bool = False) -> None:
    """Writes ``arrays`` to ``path`` by way of a temporary file beside it.

    Raises:
        OSError: the folder is missing, full or not writable; ``path`` is then left as it was.
    """
    partial = path.with_name(path.name + ".partial")
    method = zipfile.ZIP_DEFLATED if compress else zipfile.ZIP_STORED
    with zipfile.ZipFile(partial, "w") as archive:
        for name in sorted(arrays):
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=_ZIP_EPOCH)
            entry.compress_type = method
            with archive.open(entry, "w") as stream:
                np.lib.format.write_array(
                    stream, np.ascontiguousarray(arrays[name]), allow_pickle=False
                )
    partial.replace(path)
