"""The power is cut at random instants of whole updates, on a real ext4, block by block.

``WHERRY_POWER_CUTS`` sets how many instants (60; the evidence has 300), ``WHERRY_SEED`` replays a
run. The controls take one flush away and must be caught: a test that cannot fail shows nothing.
"""

from __future__ import annotations

import os
import random
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from unittest import mock

import pytest

from edge_contract import layout
from tests.device.block_log import CrashImages, LoggedDisk, make_disk, mounted
from tests.device.cut_update import Promised, check_after_cut, install_old, run_updates, stage_at
from tests.update.conftest import make_dir

pytestmark = [pytest.mark.device, pytest.mark.timeout(1800)]

CUTS = int(os.environ.get("WHERRY_POWER_CUTS", "60"))
CONTROL_CUTS = 300
ENOUGH = 3
"""A control ends when it was caught so often."""
SEED = int(os.environ.get("WHERRY_SEED") or random.SystemRandom().randrange(1 << 32))


@pytest.fixture
def place() -> Iterator[Path]:
    path = make_dir()
    yield path
    shutil.rmtree(path)


def no_directory_flush() -> AbstractContextManager[object]:
    """Renames are no longer made durable by their directory."""
    return mock.patch.object(layout, "fsync_dir")


def no_journal_flush() -> AbstractContextManager[object]:
    """Journal entries are written and not flushed."""
    real = os.fsync

    def fsync(fd: int) -> None:
        if Path(f"/proc/self/fd/{fd}").readlink().name != "journal":
            real(fd)

    return mock.patch.object(os, "fsync", fsync)


def no_file_flush() -> AbstractContextManager[object]:
    """Only directories and the journal are flushed: files get their names before their bytes."""
    real = os.fsync

    def fsync(fd: int) -> None:
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if path.is_dir() or path.name == "journal":
            real(fd)

    return mock.patch.object(os, "fsync", fsync)


def cut(
    place: Path,
    cuts: int,
    seed: int,
    broken: Callable[[], AbstractContextManager[object]],
    enough: int | None = None,
) -> tuple[list[str], Counter[str], int]:
    """Run the updates once, cut the power ``cuts`` times, or until ``enough`` cuts broke something.

    Returns:
        What was broken ("instant N in STAGE: why"), the cuts by stage, and the log's length.
    """
    base, disk_image = place / "base.img", place / "disk.img"
    make_disk(base)
    with mounted(base) as point:
        install_old(point / "state")
    shutil.copyfile(base, disk_image)
    disk = LoggedDisk(disk_image)
    with disk.running(), broken():
        began = disk.position()
        promised = run_updates(disk.mount / "state", disk.position, random.Random(seed))
        ended = disk.position()
    entries = disk.entries()
    rng = random.Random(seed + 1)
    images = CrashImages(base, entries, rng)
    instants = sorted(rng.sample(range(began, ended), min(cuts, ended - began)))
    assert len(instants) == cuts, f"the log has {ended - began} requests, expected at least {cuts}"
    failures, stages = [], Counter[str]()
    for instant in instants:
        stage = stage_at(promised, instant).value
        stages[stage] += 1
        # A file of its own: where something still holds the loop device of the one before, mount
        # would take that device again, and show its cache instead of the new image.
        crash = place / f"crash-{instant}.img"
        in_flight = images.write(crash, instant)
        why = outcome(crash, promised, instant)
        crash.unlink()
        if why:
            failures.append(f"instant {instant} ({in_flight} in flight) in {stage}: {why}")
        if len(failures) == enough:
            break
    return failures, stages, ended - began


def outcome(crash: Path, promised: Promised, instant: int) -> str:
    """Why the device does not come up as it should after this cut; "" where it does."""
    try:
        with mounted(crash) as point:
            check_after_cut(point / "state", promised, instant)
    except Exception as error:  # whatever it is, it is what the cut did
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_power_cut_at_any_write_of_an_update_leaves_old_or_new(place: Path) -> None:
    failures, stages, writes = cut(place, CUTS, SEED, nullcontext)
    print(f"\npower cuts: {CUTS} of {writes} instants, seed {SEED} (WHERRY_SEED replays it)")
    print("in: " + ", ".join(f"{stage} {count}" for stage, count in sorted(stages.items())))
    print(f"broken promises: {len(failures)}")
    assert not failures, "\n".join(failures)


@pytest.mark.parametrize("broken", [no_directory_flush, no_journal_flush, no_file_flush])
def test_control_without_a_flush_the_cuts_break_a_promise(
    place: Path, broken: Callable[[], AbstractContextManager[object]]
) -> None:
    failures, stages, _ = cut(place, CONTROL_CUTS, SEED, broken, ENOUGH)
    print(f"\ncontrol, {broken.__name__}: {len(failures)} of {stages.total()} cuts were caught")
    print("the first: " + (failures[0][:300] if failures else "none"))
    assert failures, f"{broken.__name__} went unnoticed (seed {SEED})"
