"""Directories for tests that flush thousands of times; none of them needs a real disk for it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

_RAM = Path("/dev/shm")


def make_dir() -> Path:
    """A new directory, in memory where the machine has such a place."""
    return Path(tempfile.mkdtemp(prefix="update-test-", dir=_RAM if _RAM.is_dir() else None))


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """Like pytest's own, in memory, and removed at the end."""
    path = make_dir()
    yield path
    shutil.rmtree(path)
