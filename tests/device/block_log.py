"""A disk whose every write and flush is logged, and the disks that a power cut could have left.

qemu's storage daemon exports an image through FUSE and logs what the kernel writes to it, in the
format of Linux' dm-log-writes (Documentation/admin-guide/device-mapper/log-writes.rst). A crash
image is all that was written up to the last flush before an instant, and of what was written after
it each piece or not, or torn at a sector: a disk with a cache promises no more.
"""

from __future__ import annotations

import os
import random
import shutil
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.device.board import leave_out

SECTOR_BYTES = 512
DISK_BYTES = 24 << 20
_FLUSH, _FUA, _DISCARD = 1, 2, 4
_MOUNT_OPTIONS = "loop,noauto_da_alloc"
"""Without it ext4 flushes files that are renamed over others by itself, and would hide a missing
fsync from this test; other file systems do not."""


@dataclass(frozen=True)
class LogEntry:
    """One request. ``data`` is empty for a bare flush and for a discard."""

    sector: int
    flags: int
    data: bytes


def make_disk(path: Path) -> None:
    """An empty ext4 that the kernel does not go on writing to by itself.

    Leaves the test out where there is no loop device, no FUSE or no program.
    """
    for program, package in (
        ("qemu-storage-daemon", "qemu-system-common"),
        ("fusermount3", "fuse3"),
        ("mke2fs", "e2fsprogs"),
        ("mount", "mount"),
    ):
        if shutil.which(program) is None:
            leave_out(f"a logged disk needs {program}: apt-get install {package}")
    if os.geteuid() != 0:
        leave_out("a logged disk needs root, to mount it")
    for device in ("/dev/fuse", "/dev/loop-control"):
        if not Path(device).exists():
            leave_out(f"a logged disk needs {device}")
    with path.open("wb") as file:
        file.truncate(DISK_BYTES)
    eager = "lazy_itable_init=0,lazy_journal_init=0"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", "-E", eager, path], check=True)
    with mounted(path):
        pass


@contextmanager
def mounted(image: Path) -> Iterator[Path]:
    """Mount an image through a loop device; yields the mount point.

    Raises:
        OSError: the kernel refuses it: its file system is broken.
    """
    point = image.with_name(image.name + ".mnt")
    point.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-o", _MOUNT_OPTIONS, image, point], capture_output=True, text=True
    )
    if done.returncode:
        if "loop device" in done.stderr:
            leave_out(f"a logged disk needs a loop device: {done.stderr.strip()}")
        raise OSError(f"cannot mount {image}: {done.stderr.strip()}")
    try:
        yield point
    finally:
        subprocess.run(["umount", point], check=True)
        point.rmdir()


class LoggedDisk:
    """A disk image under a log. Use it as a context manager; ``mount`` is where it is mounted.

    Args:
        image: what it starts from; it is written to.
    """

    def __init__(self, image: Path) -> None:
        self._image = image
        self._export = image.with_name("export.img")
        self._log = image.with_name("log.img")
        self._daemon: subprocess.Popen[bytes] | None = None
        self.mount = image.with_name("export.img.mnt")

    def position(self) -> int:
        """How many requests the disk has seen."""
        with self._log.open("rb") as file:
            return int(struct.unpack("<QQQ", file.read(24))[2])

    @contextmanager
    def running(self) -> Iterator[LoggedDisk]:
        """Export and mount it; at the end everything is unmounted."""
        self._export.touch()
        self._log.write_bytes(b"")
        os.truncate(self._log, 1 << 30)
        log = f"log-sector-size={SECTOR_BYTES},log-super-update-interval=1"
        export = f"type=fuse,id=export,node-name=logged,mountpoint={self._export},writable=on"
        self._daemon = subprocess.Popen(
            [
                "qemu-storage-daemon",
                "--blockdev", f"file,node-name=disk,filename={self._image}",
                "--blockdev", f"file,node-name=log,filename={self._log}",
                "--blockdev", f"blklogwrites,node-name=logged,file=disk,log=log,{log}",
                "--export", export,
            ],
            stderr=subprocess.PIPE,
        )  # fmt: skip
        try:
            self._await_export()
            with mounted(self._export):
                yield self
        finally:
            self._daemon.terminate()
            self._daemon.wait(20)

    def entries(self) -> list[LogEntry]:
        """The whole log, once the disk is unmounted."""
        return list(_read_log(self._log))

    def _await_export(self) -> None:
        assert self._daemon is not None
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s and self._daemon.poll() is None:
            if self._export.stat().st_size:
                return
            time.sleep(0.02)
        self._daemon.kill()
        said = self._daemon.communicate()[1].decode()
        leave_out(f"qemu-storage-daemon exports no disk through FUSE: {said.strip()}")


def _read_log(path: Path) -> Iterator[LogEntry]:
    with path.open("rb") as file:
        count = struct.unpack("<QQQ", file.read(24))[2]
        file.seek(SECTOR_BYTES)
        for _ in range(count):
            sector, sectors, flags, _ = struct.unpack("<QQQQ", file.read(SECTOR_BYTES)[:32])
            data = b"" if flags & _DISCARD else file.read(sectors * SECTOR_BYTES)
            yield LogEntry(sector, flags, data)


class CrashImages:
    """Builds what a power cut may have left, at instants that only grow.

    Args:
        base: the image that the log began with.
        entries: the log.
        rng: decides what survives of what was not flushed.
    """

    def __init__(self, base: Path, entries: list[LogEntry], rng: random.Random) -> None:
        self._durable = bytearray(base.read_bytes())
        self._entries = entries
        self._rng = rng
        self._flushed = 0

    def write(self, target: Path, instant: int) -> int:
        """Write the image of a cut after the first ``instant`` requests.

        Returns:
            How many requests were in flight: written and not flushed.
        """
        before = range(self._flushed, instant)
        last = max((i for i in before if self._entries[i].flags & _FLUSH), default=None)
        if last is not None:
            # A flush covers what was completed before it; its own data come after it.
            for entry in self._entries[self._flushed : last]:
                _put(self._durable, entry.sector, entry.data)
            self._flushed = last
        image = bytearray(self._durable)
        share = self._rng.choice([0.1, 0.5, 0.9])
        in_flight = self._entries[self._flushed : instant]
        for entry in in_flight:
            if entry.flags & _FUA:
                _put(image, entry.sector, entry.data)
            elif self._rng.random() < share:
                kept = len(entry.data)
                if self._rng.random() < 0.2:
                    kept = SECTOR_BYTES * self._rng.randint(0, kept // SECTOR_BYTES)
                _put(image, entry.sector, entry.data[:kept])
        target.write_bytes(image)
        return len(in_flight)


def _put(image: bytearray, sector: int, data: bytes) -> None:
    image[sector * SECTOR_BYTES : sector * SECTOR_BYTES + len(data)] = data
