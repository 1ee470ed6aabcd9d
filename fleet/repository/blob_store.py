"""Blobs by digest on disk: ``blobs/sha256/<hex>``, each one complete and durable or absent."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from edge_contract.digest import check_digest, digest_of, digest_of_chunks, hex_of
from edge_contract.errors import ExitCode, TrustError
from edge_contract.layout import fsync_dir
from fleet.errors import FleetError

_CHUNK_BYTES = 1 << 20
_PART_SUFFIX = ".part"


class BlobStore:
    """Content-addressed files.

    Args:
        directory: the ``blobs`` folder; made when the first blob comes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory / "sha256"

    def path(self, digest: str) -> Path:
        """Where the blob lies.

        Raises:
            ContractError: not a digest.
            FleetError: there is no such blob.
        """
        path = self._directory / hex_of(check_digest(digest, where="blob"))
        if not path.is_file():
            raise FleetError(f"no blob {digest} in {self._directory}", exit_code=ExitCode.NOT_FOUND)
        return path

    def read(self, digest: str, limit_bytes: int) -> bytes:
        """The bytes of a small blob, checked.

        Raises:
            FleetError: missing, or longer than ``limit_bytes``.
            TrustError: damaged on disk.
        """
        path = self.path(digest)
        with path.open("rb") as file:
            data = file.read(limit_bytes + 1)
        if len(data) > limit_bytes:
            raise FleetError(f"{path}: longer than {limit_bytes} bytes")
        if digest_of(data) != digest:
            raise TrustError(
                f"{path}: its content no longer has the digest in its name",
                hint="publish the bundle again; that writes the blob anew",
            )
        return data

    def add_bytes(self, data: bytes) -> str:
        """Store ``data`` and return its digest."""
        digest = digest_of(data)
        self._add(iter((data,)), digest, where="new blob")
        return digest

    def add_file(self, source: Path, digest: str) -> None:
        """Copy ``source`` into the store, checking it on the way.

        Raises:
            TrustError: its content has another digest; nothing is stored.
        """
        self._add(_chunks(source), digest, where=str(source))

    def remove_leftovers(self) -> None:
        """Drop what an interrupted publisher left half-written."""
        for path in self._directory.glob(f".*{_PART_SUFFIX}"):
            path.unlink(missing_ok=True)

    def _add(self, chunks: Iterator[bytes], digest: str, *, where: str) -> None:
        target = self._directory / hex_of(check_digest(digest, where=where))
        # Read a blob that is there: publishing again is how a damaged one is healed.
        if target.is_file() and digest_of_chunks(_chunks(target)) == digest:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=".", suffix=_PART_SUFFIX, dir=self._directory)
        temporary = Path(name)
        state = hashlib.sha256()
        try:
            with os.fdopen(handle, "wb") as file:
                for chunk in chunks:
                    state.update(chunk)
                    file.write(chunk)
                file.flush()
                os.fsync(file.fileno())
            actual = "sha256:" + state.hexdigest()
            if actual != digest:
                raise TrustError(f"{where}: digest differs: expected {digest}, got {actual}")
            temporary.chmod(0o644)
            temporary.replace(target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        fsync_dir(self._directory)


def _chunks(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
