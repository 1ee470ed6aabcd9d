"""One blob on its way: a sparse file and, beside it, the map of the blocks that it holds.

The map never claims a block whose bytes might still be lost: data is flushed before the map that
names it. So a transfer cut at any instant goes on from the last map.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from edge_agent.errors import AgentError
from edge_contract.digest import digest_of_chunks, hex_of
from edge_contract.errors import TrustError
from edge_contract.layout import fsync_dir, write_durably

BLOCK_BYTES = 64 * 1024
_MAP_EVERY_BLOCKS = 32
"""2 MB between two maps: what a power cut may cost to receive twice, at most."""


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
        self.blocks_total = max(1, -(-size_bytes // BLOCK_BYTES))
        self.path = directory / hex_of(digest)
        self._map_path = directory / f"{hex_of(digest)}.map"
        self._have = self._load_map()
        self._unmapped = 0
        self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)
        os.ftruncate(self._file, size_bytes)

    @property
    def received_bytes(self) -> int:
        """Bytes of the blocks that are here."""
        return sum(self._block_size(index) for index in self._have)

    def missing(self, limit: int) -> list[tuple[int, int]]:
        """Closed ranges of the first ``limit`` block numbers that are not here yet."""
        ranges: list[tuple[int, int]] = []
        wanted = 0
        for index in range(self.blocks_total):
            if index in self._have:
                continue
            if wanted == limit:
                break
            wanted += 1
            if ranges and ranges[-1][1] == index - 1:
                ranges[-1] = (ranges[-1][0], index)
            else:
                ranges.append((index, index))
        return ranges

    def write(self, index: int, data: bytes) -> bool:
        """Store one block; False for a repeated, foreign or wrongly sized one, which is ignored.

        Raises:
            OSError: the disk is full.
        """
        if not 0 <= index < self.blocks_total or index in self._have:
            return False
        if len(data) != self._block_size(index):
            return False
        os.pwrite(self._file, data, index * BLOCK_BYTES)
        self._have.add(index)
        self._unmapped += 1
        if self._unmapped >= _MAP_EVERY_BLOCKS:
            self.save_map()
        return True

    @property
    def complete(self) -> bool:
        """Whether every block is here."""
        return len(self._have) == self.blocks_total

    def save_map(self) -> None:
        """Make what was received durable, then the map that says so."""
        os.fsync(self._file)
        write_durably(self._map_path, msgspec.json.encode(sorted(self._have)))
        self._unmapped = 0

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

    def _block_size(self, index: int) -> int:
        return min(BLOCK_BYTES, self.size_bytes - index * BLOCK_BYTES)

    def _read_chunks(self) -> Iterator[bytes]:
        for offset in range(0, self.size_bytes, BLOCK_BYTES):
            yield os.pread(self._file, BLOCK_BYTES, offset)

    def _load_map(self) -> set[int]:
        try:
            indices = msgspec.json.decode(self._map_path.read_bytes(), type=list[int])
            whole = self.path.stat().st_size == self.size_bytes
        except (OSError, msgspec.DecodeError):
            return set()
        return {i for i in indices if 0 <= i < self.blocks_total} if whole else set()


def require_space(directory: Path, needed_bytes: int) -> None:
    """Refuse a transfer that would not fit, before a byte of it is asked for.

    Raises:
        AgentError: too little space; says how much is there and how much is needed.
    """
    stat = os.statvfs(directory)
    free_bytes = stat.f_bavail * stat.f_frsize
    if free_bytes < needed_bytes:
        raise AgentError(
            f"no space left for the update: {needed_bytes / 1e6:.1f} MB needed in {directory},"
            f" {free_bytes / 1e6:.1f} MB free",
            hint=f"free some space: df -h {directory}",
        )
