"""Deltas between published blobs: made once, in a process of their own, and kept.

Everything here can be made again, so the directory may be emptied at any time. A pair for which no
delta is worth it is remembered as well.
"""

from __future__ import annotations

import logging
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edge_contract.digest import digest_of_chunks, hex_of
from edge_contract.errors import WherryError
from edge_contract.layout import write_durably

SHARE_MAX = 0.7
"""A delta is shipped below this share of the blob."""
WORTH_BYTES = 8 * 1024
TARGET_MAX_BYTES = 256_000_000
KEPT_MAX_BYTES = 512_000_000
"""Of deltas on disk; the oldest go."""
MAKING_S = 600.0
_CHUNK_BYTES = 1 << 20
_SUFFIX = ".delta"
_NONE_SUFFIX = ".none"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MadeDelta:
    """A delta on disk. ``digest`` is its own."""

    base: str
    target: str
    digest: str
    size_bytes: int
    path: Path


class DeltaStore:
    """Makes, keeps and finds deltas. Every method is safe from any thread.

    Args:
        directory: of its own.
        path_of: the file of a published blob; raises ``WherryError`` where there is none.
    """

    def __init__(self, directory: Path, path_of: Callable[[str], Path]) -> None:
        self._directory = directory
        self._path_of = path_of
        self._lock = threading.Condition()
        self._made: dict[tuple[str, str], MadeDelta | None] = {}
        self._by_digest: dict[str, MadeDelta] = {}
        """The oldest first."""
        self._pending: set[tuple[str, str]] = set()
        self._jobs: queue.Queue[tuple[str, str] | None] = queue.Queue()
        self._process: subprocess.Popen[bytes] | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="deltas", daemon=True)

    def start(self) -> None:
        """Read what is kept, and begin to make what is asked for."""
        self._directory.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._directory.iterdir(), key=lambda path: path.lstat().st_mtime):
            target, _, base = path.stem.partition(".")
            pair = (f"sha256:{base}", f"sha256:{target}")
            if path.suffix == _NONE_SUFFIX:
                self._made[pair] = None
            elif path.suffix == _SUFFIX and not path.name.startswith("."):
                try:
                    self._take(pair, path)
                except OSError as error:
                    _log.warning("the delta %s cannot be read: %s", path.name, error)
            else:
                path.unlink(missing_ok=True)
        self._thread.start()

    def stop(self) -> None:
        """Give up what is being made."""
        with self._lock:
            self._stopping = True
            if self._process is not None:
                self._process.kill()
            self._lock.notify_all()
        self._jobs.put(None)
        if self._thread.is_alive():
            self._thread.join()

    def find(self, base: str, target: str) -> tuple[bool, MadeDelta | None]:
        """(known, delta): the delta where there is one that is worth it. An unknown pair is queued.

        Both digests must be of published blobs.
        """
        pair = (base, target)
        with self._lock:
            made = self._made.get(pair)
            if pair in self._made and (made is None or self._is_there(made)):
                return True, made
            if pair not in self._pending:
                self._pending.add(pair)
                self._jobs.put(pair)
            return False, None

    def wait(self, pairs: list[tuple[str, str]], timeout_s: float) -> None:
        """Wait until all pairs (base, target) are known, or the time is over."""
        with self._lock:
            self._lock.wait_for(
                lambda: self._stopping or all(pair in self._made for pair in pairs), timeout_s
            )

    def by_digest(self, digest: str) -> MadeDelta | None:
        """The delta with this digest of its own."""
        with self._lock:
            delta = self._by_digest.get(digest)
            return delta if delta is not None and self._is_there(delta) else None

    def _run(self) -> None:
        while (pair := self._jobs.get()) is not None and not self._stopping:
            path = self._make(pair)
            with self._lock:
                self._pending.discard(pair)
                self._made[pair] = None
                try:
                    if path is not None:
                        self._take(pair, path)
                except OSError as error:
                    _log.warning("the delta %s cannot be read: %s", path, error)
                self._lock.notify_all()
            self._trim()

    def _make(self, pair: tuple[str, str]) -> Path | None:
        """The delta's file; None where there is none that is worth it."""
        base, target = pair
        stem = self._directory / f"{hex_of(target)}.{hex_of(base)}"
        path = stem.with_name(stem.name + _SUFFIX)
        try:
            base_path, target_path = self._path_of(base), self._path_of(target)
            size_bytes = target_path.stat().st_size
            if not WORTH_BYTES <= size_bytes <= TARGET_MAX_BYTES:
                return None
            if self._in_process([str(base_path), str(target_path), str(path)]):
                if path.stat().st_size <= SHARE_MAX * size_bytes:
                    return path
                path.unlink()
            elif self._stopping:
                return None
            write_durably(stem.with_name(stem.name + _NONE_SUFFIX), b"")
        except (OSError, WherryError) as error:
            _log.warning("no delta from %s to %s: %s", base[:19], target[:19], error)
        return None

    def _in_process(self, arguments: list[str]) -> bool:
        command = [sys.executable, "-m", "fleet.transfer.delta_coders", *arguments]
        with self._lock:
            if self._stopping:
                return False
            self._process = subprocess.Popen(command, stderr=subprocess.PIPE)
        try:
            _, errors = self._process.communicate(timeout=MAKING_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            _, errors = self._process.communicate()
        code = self._process.returncode
        if code and not self._stopping:
            _log.warning("the delta maker ended with %s: %s", code, errors[-400:].decode("replace"))
        return code == 0

    def _take(self, pair: tuple[str, str], path: Path) -> None:
        with path.open("rb") as file:
            digest = digest_of_chunks(iter(lambda: file.read(_CHUNK_BYTES), b""))
        delta = MadeDelta(*pair, digest, path.stat().st_size, path)
        self._made[pair] = delta
        self._by_digest[digest] = delta

    def _is_there(self, delta: MadeDelta) -> bool:
        """Whether its file is; what somebody removed is forgotten, and made again on demand."""
        try:
            if delta.path.stat().st_size == delta.size_bytes:
                return True
        except OSError:
            pass
        self._forget(delta)
        return False

    def _forget(self, delta: MadeDelta) -> None:
        self._by_digest.pop(delta.digest, None)
        self._made.pop((delta.base, delta.target), None)

    def _trim(self) -> None:
        """Let the oldest go while there are too many; never the last one."""
        with self._lock:
            kept = [delta for delta in list(self._by_digest.values()) if self._is_there(delta)]
            total = sum(delta.size_bytes for delta in kept)
            for delta in kept[:-1]:
                if total <= KEPT_MAX_BYTES:
                    return
                total -= delta.size_bytes
                self._forget(delta)
                delta.path.unlink(missing_ok=True)
