"""Calibration statistics kept between runs, by the content of everything they follow from.

Entries lie in ``$XDG_CACHE_HOME/wherry/calibration`` (``~/.cache`` where that is not set), one
``.npz`` of plain arrays each. The cache saves time and decides nothing: an entry that is missing,
damaged or cannot be written costs a calibration and no more.
"""

from __future__ import annotations

import os
import tempfile
import zipfile
import zlib
from pathlib import Path

import numpy as np

from compiler.calibrate.ranges import BINS, TensorStats

ENTRIES_MAX = 64
"""The oldest beyond these are removed; an entry is about 1 to 100 kB."""


def cache_folder() -> Path:
    """Where entries lie."""
    root = os.environ.get("XDG_CACHE_HOME")
    return (Path(root) if root else Path.home() / ".cache") / "wherry" / "calibration"


class StatCache:
    """Statistics by key.

    Args:
        folder: made at the first write.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def load(self, key: str) -> dict[str, TensorStats] | None:
        """The entry of a key (hexadecimal), or ``None``."""
        try:
            with np.load(self._folder / f"{key}.npz", allow_pickle=False) as archive:
                names = [str(name) for name in archive["names"]]
                low, high, counts = (archive[part] for part in ("low", "high", "counts"))
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
            return None
        shapes = (low.shape, high.shape, counts.shape)
        if shapes != ((len(names),), (len(names),), (len(names), BINS)):
            return None
        if counts.dtype != np.int64 or not np.isfinite([*low, *high]).all():
            return None
        return {
            name: TensorStats(float(low[row]), float(high[row]), counts[row])
            for row, name in enumerate(names)
        }

    def store(self, key: str, stats: dict[str, TensorStats]) -> None:
        """Keep an entry; it appears whole or not at all."""
        names = sorted(stats)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._folder) as scratch:
                path = Path(scratch) / "entry.npz"
                np.savez_compressed(
                    path,
                    names=np.array(names),
                    low=np.array([stats[name].low for name in names]),
                    high=np.array([stats[name].high for name in names]),
                    counts=np.stack([stats[name].counts for name in names]),
                )
                path.replace(self._folder / f"{key}.npz")
            entries = sorted(self._folder.glob("*.npz"), key=lambda one: one.stat().st_mtime)
            for old in entries[:-ENTRIES_MAX]:
                old.unlink(missing_ok=True)
        except OSError:
            return  # A full or read-only disk; the build does not depend on it.
