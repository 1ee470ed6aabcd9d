"""A disk that loses its power: what was not flushed may be there, or not, or in part.

The tree is a real directory, and the code under test runs on it unchanged; only ``os.fsync`` is
replaced. Each call records what became durable: a file's bytes, or a directory's entries. ``cut``
then builds the tree that a power cut may leave, which is more hostile than any one file system:

- every directory entry that changed since its directory was flushed is old or new, each by itself;
- every file that changed since it was flushed has its old bytes, its new ones, or, where it grew,
  any part of what was appended;
- a file that was never flushed is empty, torn or whole.

A flush may also be refused, as by a full disk: then nothing of it is known to be durable.
"""

from __future__ import annotations

import errno
import os
import random
import stat
from pathlib import Path


class PowerCut(BaseException):
    """The machine is gone. No handler of the code under test may catch this and go on."""


class CuttableDisk:
    """Args:
    base: an empty directory for this disk and all that it becomes.
    rng: decides what survives.
    """

    def __init__(self, base: Path, rng: random.Random) -> None:
        self._base = base
        self._rng = rng
        self._real_fsync = os.fsync
        self._trees = 0
        self.flushes = 0
        self.cut_after: int | None = None
        """Cut the power instead of this flush (counted from now on by ``arm``)."""
        self._refuse_from = self._refusals = 0
        self.root = base / "0"
        self.root.mkdir()
        self._files: dict[int, bytes] = {}
        self._entries: dict[int, dict[str, int]] = {}
        self._is_dir: dict[int, bool] = {}
        self._pins: dict[int, int] = {}
        self._record_all()

    def arm(self, flushes: int) -> None:
        """Cut the power in place of the ``flushes``-th flush from now."""
        self.cut_after = self.flushes + flushes

    def refuse(self, after: int, count: int) -> None:
        """Have ``count`` flushes refused, once ``after`` more were made."""
        self._refuse_from, self._refusals = self.flushes + after + 1, count

    def obey(self) -> None:
        """There is room again, and nothing is cut."""
        self.cut_after, self._refusals = None, 0

    def fsync(self, fd: int) -> None:
        """Stands in for ``os.fsync``."""
        path = Path(f"/proc/self/fd/{fd}").readlink()
        if not path.is_relative_to(self.root):
            # A thread of another test, or the remains of a run that was cut off.
            return
        self.flushes += 1
        if self.cut_after is not None and self.flushes >= self.cut_after:
            self.cut()
            raise PowerCut
        if self._refusals and self.flushes >= self._refuse_from:
            self._refusals -= 1
            raise OSError(errno.ENOSPC, "No space left on device")
        self._record(path)

    def cut(self) -> None:
        """Replace the tree by one that a power cut may leave."""
        where = {self._inode(p): p for p in (self.root, *self.root.rglob("*"))}
        root_inode = self._inode(self.root)
        for inode, path in where.items():
            self._is_dir[inode] = path.is_dir()
        self._trees += 1
        target = self._base / str(self._trees)
        self._survive(root_inode, where, target)
        self.root = target
        self.cut_after = None
        self.close()
        self._files, self._entries, self._is_dir = {}, {}, {}
        self._record_all()

    def close(self) -> None:
        """Let go of the inodes that were kept from being used again."""
        for pin in self._pins.values():
            os.close(pin)
        self._pins = {}

    # --- recording -------------------------------------------------------------------------------

    def _record_all(self) -> None:
        for path in (self.root, *self.root.rglob("*")):
            self._record(path)

    def _record(self, path: Path) -> None:
        inode = self._pin(path)
        if self._is_dir[inode]:
            self._entries[inode] = {child.name: self._pin(child) for child in path.iterdir()}
        else:
            self._files[inode] = path.read_bytes()

    def _pin(self, path: Path) -> int:
        inode = self._inode(path)
        if inode not in self._pins:
            self._pins[inode] = os.open(path, os.O_PATH)
            self._is_dir[inode] = stat.S_ISDIR(path.stat().st_mode)
        return inode

    @staticmethod
    def _inode(path: Path) -> int:
        return path.stat().st_ino

    # --- surviving -------------------------------------------------------------------------------

    def _survive(self, inode: int, where: dict[int, Path], target: Path) -> None:
        here = where.get(inode)
        if not self._is_dir[inode]:
            now = here.read_bytes() if here else None
            target.write_bytes(self._bytes(self._files.get(inode), now))
            return
        target.mkdir()
        flushed = self._entries.get(inode, {})
        current = {p.name: self._inode(p) for p in here.iterdir()} if here else {}
        for name in sorted(flushed.keys() | current.keys()):
            chosen = self._rng.choice([flushed.get(name), current.get(name)])
            if chosen is not None:
                self._survive(chosen, where, target / name)

    def _bytes(self, flushed: bytes | None, now: bytes | None) -> bytes:
        if now is None:
            return flushed or b""
        if flushed is None or (now.startswith(flushed) and now != flushed):
            kept = len(flushed or b"")
            return now[: self._rng.choice([kept, self._rng.randint(kept, len(now)), len(now)])]
        return self._rng.choice([flushed, now])
