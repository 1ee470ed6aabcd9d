"""A device to install on, in memory: these tests flush thousands of times and need no real disk."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.update.effects import Hook
from tests.update.device import Clock, Device
from tests.update.fleet import FLEET, V1, Start, give

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


@pytest.fixture
def start(tmp_path: Path) -> Start:
    clock = Clock()

    def make(boot: str = "clean", answers: dict[Hook, str] | None = None) -> Device:
        return Device(tmp_path, FLEET, clock, answers).boot(boot)  # type: ignore[arg-type]

    return make


@pytest.fixture
def device(start: Start) -> Device:
    """Version 1 is active in slot A, with some seconds of frames behind it."""
    device = start()
    give(device, V1, 1).settle()
    for _ in range(5):
        device.second()
    return device
