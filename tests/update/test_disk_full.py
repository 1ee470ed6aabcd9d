"""A disk that is full at any write of an update: the active version runs, no slot is broken, and
the update ends, or goes on when there is space again.

Every call that can find no room (a write, an fsync, a rename, a new file, directory or link) of the
update from 1.0.0 to 2.0.0 is counted, and then refused in turn.
"""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

from edge_agent.update.state import Stage
from tests.update.bundles import whole_digest
from tests.update.conftest import make_dir
from tests.update.device import Clock, Device
from tests.update.fleet import FLEET, V1, V2, Start, give

CALLS = ("fsync", "fdatasync", "write", "pwrite", "replace", "rename", "mkdir", "link", "symlink")
FOR_EVER = 10**9
ENDS = {"committed", "failed", "refused", "rolled_back"}


class FullDisk:
    """Refuses ``length`` calls from the ``at``-th on (counted from 1), until ``free``."""

    def __init__(self, at: int, length: int) -> None:
        self.calls_count = 0
        self._at, self._until = at, at + length
        self._thread = threading.get_ident()

    def free(self) -> None:
        """There is space again."""
        self._until = 0

    @property
    def refuses(self) -> bool:
        """Whether the last call was refused."""
        return self._at <= self.calls_count < self._until

    @contextmanager
    def mounted(self) -> Iterator[None]:
        """While it is, what this thread writes goes through it."""
        with ExitStack() as stack:
            for name in CALLS:
                stack.enter_context(mock.patch.object(os, name, self._through(getattr(os, name))))
            stack.enter_context(mock.patch.object(os, "open", self._opens(os.open)))
            yield

    def _through(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def refusing(*arguments: Any, **options: Any) -> Any:
            if threading.get_ident() == self._thread:
                self.calls_count += 1
                if self.refuses:
                    raise OSError(errno.ENOSPC, "No space left on device")
            return call(*arguments, **options)

        return refusing

    def _opens(self, call: Callable[..., int]) -> Callable[..., int]:
        refusing = self._through(call)

        def opens(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            new = bool(flags & os.O_CREAT) and not os.path.lexists(path)
            return (refusing if new else call)(path, flags, *rest, **options)

        return opens


def rounds(device: Device, count: int, ended: Callable[[], bool] = lambda: False) -> None:
    """Time passes; all the while a whole version answers."""
    for _ in range(count):
        if ended():
            return
        device.pump()
        device.second()
        assert device.running in (V1.digest, V2.digest), "inference stopped"


def is_sound(device: Device) -> None:
    """What the device calls active is whole, runs, and is what the fleet was told."""
    pointer = device.slots.pointer
    assert whole_digest(device.state_dir / "slots" / pointer.active) == pointer.active_digest
    assert device.running == pointer.active_digest
    told = [phase for seq, phase, _ in device.reports if seq == 2]
    assert (pointer.active_digest == V2.digest) == ("committed" in told)


def update_on(at: int, length: int) -> tuple[str, int]:
    """One update on a disk that is full from its ``at``-th call on; (how it ended, calls)."""
    base, clock = make_dir(), Clock()
    try:
        device = give(Device(base, FLEET, clock).boot(), V1, 1).settle()
        rounds(device, 5)
        disk = FullDisk(at, length)

        def ended() -> bool:
            told = device.phases(2)
            return bool(told) and told[-1] in ENDS and device.manager.state.stage is Stage.IDLE

        with disk.mounted():
            give(device, V2, 2)
            if length == FOR_EVER:
                rounds(device, 20, ended)
                disk.free()
            # No longer than it takes anyway: what was refused is tried again, not given up.
            rounds(device, 40, ended)
            if "cannot fill the spare slot" in device.manager.waits_for:
                rounds(device, 70, ended)  # filled again a minute later
        assert ended(), device.manager.status()
        is_sound(device)
        how = device.phases(2)[-1]
        if how != "committed":
            assert "No space left" in device.reason(2)
            give(device, V2, 3).settle()
            assert device.running == V2.digest, "ordered anew it is installed"
        return how, disk.calls_count
    finally:
        shutil.rmtree(base)


def test_an_update_ends_whichever_write_finds_the_disk_full() -> None:
    how, calls_count = update_on(FOR_EVER, 1)
    assert how == "committed"
    assert calls_count > 50
    for length in (1, FOR_EVER):
        ends = [update_on(at, length)[0] for at in range(1, calls_count + 1)]
        assert set(ends) <= {"committed", "failed"}
        assert ends.count("committed") >= 20, "the journal and the pointer are tried again"


def test_a_restart_after_a_full_disk_runs_what_was_active_wherever_the_update_stood() -> None:
    for at in range(1, update_on(FOR_EVER, 1)[1] + 1):
        base, clock = make_dir(), Clock()
        try:
            device = give(Device(base, FLEET, clock).boot(), V1, 1).settle()
            with FullDisk(at, FOR_EVER).mounted():
                give(device, V2, 2)
                rounds(device, 20)
            device.off()
            again = Device(base, FLEET, clock).boot("power")
            while not again.running:
                assert again.pump(), "nothing was switched in"
            again.settle()
            assert again.running in (V1.digest, V2.digest)
            again.reports[:0] = device.reports
            is_sound(again)
        finally:
            shutil.rmtree(base)


def test_the_disk_that_is_full_is_said(start: Start, tmp_path: Path) -> None:
    device = give(start(), V1, 1).settle()
    disk = FullDisk(1, FOR_EVER)
    with disk.mounted():
        give(device, V2, 2)
        device.second()
        assert "No space left" in device.manager.blocked
        disk.free()
        device.second()
        assert device.manager.blocked == ""
    assert device.settle().running == V2.digest
