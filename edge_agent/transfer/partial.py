"""One blob on its way: a sparse file and, beside it, the map of the cells that it holds.

The map never claims a cell whose bytes might still be lost: data is flushed before the map that
names it. So a transfer cut at any instant goes on from the last map.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.errors import AgentError
from edge_contract.digest import digest_of_chunks, hex_of
from edge_contract.errors import TrustError
from edge_contract.layout import fsync_dir, write_durably

CELL_BYTES = 4 * 1024
"""What one bit of the map stands for: the smallest block, so that the size of blocks may change."""
_MAP_EVERY_BYTES = 2 << 20
"""What a power cut may cost to receive twice, at most; on a slow link the puller saves by time."""
_CHUNK_BYTES = 1 << 20


class NoSpaceError(AgentError):
    """The disk has no room for what is to come; it may have again later."""


class PartialBlob:
    """A blob of known size that is being received.

    Args:
        directory: where partial blobs lie.
        digest, size_bytes: from the signed manifest, so a peer cannot make the file grow.
    """

    def __init__(self, directory: Path, digest: str, size_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self.digest = digest
        self.size_bytes = size_bytes
        self.path = directory / hex_of(digest)
        self._map_path = directory / f"{hex_of(digest)}.map"
        # An empty blob is one empty cell: something has to come for it to be whole.
        self._have = bytearray(max(1, -(-size_bytes // CELL_BYTES)))
        self._left = len(self._have)
        self._load_map()
        self.resumed = self._left < len(self._have)
        """Whether a part of it was on the disk before."""
        self.failure: Exception | None = None
        """Why it could not be finished, once that was tried."""
        self.unmapped_bytes = 0
        """Received since the map was saved."""
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size_bytes)

    @property
    def damaged(self) -> bool:
        """Whether it was whole and its bytes were not those of the digest."""
        return isinstance(self.failure, TrustError)

    @property
    def received_bytes(self) -> int:
        """Bytes that are here."""
        here = (len(self._have) - self._left) * CELL_BYTES
        return here - (-self.size_bytes % CELL_BYTES if self._have[-1] else 0)

    def next_missing(self, offset_bytes: int) -> int | None:
        """Where the first missing cell at or after an offset begins; None: there is none."""
        cell = self._have.find(0, offset_bytes // CELL_BYTES)
        return None if cell < 0 else cell * CELL_BYTES

    def write(self, offset_bytes: int, data: bytes) -> int:
        """Store what came; returns how many bytes of it are new, 0 for what cannot be of this blob.

        Raises:
            OSError: the disk is full.
        """
        end = offset_bytes + len(data)
        whole = end == self.size_bytes or (len(data) > 0 and len(data) % CELL_BYTES == 0)
        if offset_bytes < 0 or offset_bytes % CELL_BYTES or end > self.size_bytes or not whole:
            return 0
        first, last = offset_bytes // CELL_BYTES, max(0, end - 1) // CELL_BYTES
        if first >= len(self._have):
            return 0
        new_cells = [cell for cell in range(first, last + 1) if not self._have[cell]]
        if not new_cells:
            return 0
        os.pwrite(self._file, data, offset_bytes)
        before_bytes = self.received_bytes
        for cell in new_cells:
            self._have[cell] = 1
        self._left -= len(new_cells)
        new_bytes = self.received_bytes - before_bytes
        self.unmapped_bytes += new_bytes
        if self.unmapped_bytes >= _MAP_EVERY_BYTES:
            self.save_map()
        return new_bytes

    @property
    def complete(self) -> bool:
        """Whether every byte is here."""
        return self._left == 0

    def save_map(self) -> None:
        """Make what was received durable, then the map that says so."""
        os.fsync(self._file)
        write_durably(self._map_path, msgspec.json.encode(self._ranges()))
        self.unmapped_bytes = 0

    def finish(self, target: Path) -> None:
        """Check the whole against its digest and move it to ``target``, durably.

        Raises:
            TrustError: the bytes are not those of the digest; the partial file is removed.
            OSError: the disk refused.
        """
        os.fsync(self._file)
        actual = digest_of_chunks(self._read_chunks())
        if actual != self.digest:
            self.discard()
            raise TrustError(
                f"blob {self.digest[:19]}… arrived as {actual[:19]}…: damaged or tampered with"
            )
        self._release()
        self.path.replace(target)
        fsync_dir(target.parent)
        self._map_path.unlink(missing_ok=True)

    def discard(self) -> None:
        """Forget what was received."""
        self._release()
        self.path.unlink(missing_ok=True)
        self._map_path.unlink(missing_ok=True)

    def close(self) -> None:
        """Keep what was received for later.

        Raises:
            OSError: the disk refused the map; the one before still holds.
        """
        if self._file < 0:
            return
        try:
            self.save_map()
        finally:
            self._release()

    def _release(self) -> None:
        """Close the file, once: its number may be another thread's file a moment later."""
        file, self._file = self._file, -1
        if file >= 0:
            os.close(file)

    def _ranges(self) -> list[tuple[int, int]]:
        """Closed ranges of the cells that are here."""
        ranges = []
        first = self._have.find(1)
        while first >= 0:
            after = self._have.find(0, first)
            after = len(self._have) if after < 0 else after
            ranges.append((first, after - 1))
            first = self._have.find(1, after)
        return ranges

    def _read_chunks(self) -> Iterator[bytes]:
        for offset in range(0, self.size_bytes, _CHUNK_BYTES):
            yield os.pread(self._file, _CHUNK_BYTES, offset)

    def _load_map(self) -> None:
        try:
            ranges = msgspec.json.decode(self._map_path.read_bytes(), type=list[tuple[int, int]])
            whole = self.path.stat().st_size == self.size_bytes
        except (OSError, msgspec.DecodeError):
            return
        for first, last in ranges if whole else ():
            if 0 <= first <= last < len(self._have):
                self._have[first : last + 1] = b"\1" * (last + 1 - first)
        self._left = self._have.count(0)


def is_full(error: Exception) -> bool:
    """Whether a disk or a quota has no room, which may change."""
    codes = (errno.ENOSPC, errno.EDQUOT)
    return isinstance(error, NoSpaceError) or (isinstance(error, OSError) and error.errno in codes)


def require_space(directory: Path, needed_bytes: int) -> None:
    """Refuse a transfer that would not fit, before a byte of it is asked for.

    Raises:
        NoSpaceError: too little space; says how much is there and how much is needed.
    """
    stat = os.statvfs(directory)
    free_bytes = stat.f_bavail * stat.f_frsize
    if free_bytes < needed_bytes:
        raise NoSpaceError(
            f"no space left for the update: {needed_bytes / 1e6:.1f} MB needed in {directory},"
            f" {free_bytes / 1e6:.1f} MB free",
            hint=f"free some space: df -h {directory}",
        )
