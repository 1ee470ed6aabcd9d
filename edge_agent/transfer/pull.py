"""Ask for missing blocks until every wanted blob is whole. One blob at a time, one loop owns it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.transfer.partial import BLOCK_BYTES, PartialBlob, require_space
from edge_contract.codec import encode_json
from edge_contract.digest import hex_of
from edge_contract.errors import WherryError
from edge_contract.manifest import Descriptor
from edge_contract.messages import BlobAsk, BlobBlock

WINDOW_BLOCKS = 32
"""2 MB asked for at a time: enough to keep a LAN busy, little enough to lose."""
SILENCE_S = 2.0
"""A block that has not come by then was lost; the rest is asked for again."""
HEADROOM_BYTES = 8 << 20
"""Left free for journal, spool and the rest of the system."""


@dataclass
class Progress:
    """How far the wanted blobs are."""

    total_bytes: int = 0
    done_bytes: int = 0
    received_bytes: int = field(default=0)
    """Over the wire in this process, repeats included."""

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.done_bytes / self.total_bytes if self.total_bytes else 100.0


class BlobPuller:
    """Pulls a list of blobs into ``blobs/``.

    Args:
        state_dir: holds ``blobs/`` (whole, checked) and ``incoming/`` (partial).
        ask: sends a ``BlobAsk`` payload; may be called while offline, then nothing comes back.
        finished: called once with "" or with the reason for the failure.
    """

    def __init__(
        self, state_dir: Path, ask: Callable[[bytes], None], finished: Callable[[str], None]
    ) -> None:
        self.blob_dir = state_dir / "blobs"
        self._incoming = state_dir / "incoming"
        for directory in (self.blob_dir, self._incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._ask = ask
        self._finished = finished
        self._queue: list[Descriptor] = []
        self._current: PartialBlob | None = None
        self._asked: set[int] = set()
        self._asked_s = 0.0
        self.progress = Progress()

    @property
    def active(self) -> bool:
        """Whether something is being pulled."""
        return self._current is not None

    def blob(self, digest: str) -> Path:
        """Where a whole blob lies."""
        return self.blob_dir / hex_of(digest)

    def want(self, descriptors: list[Descriptor], now_s: float) -> None:
        """Begin. Blobs that are here already are not asked for; what came before is resumed."""
        self.cancel()
        todo = {d.digest: d for d in descriptors if not self.blob(d.digest).exists()}
        self._queue = list(todo.values())
        total = sum(d.size for d in {d.digest: d for d in descriptors}.values())
        here = total - sum(d.size for d in self._queue)
        self.progress = Progress(total, here)
        try:
            require_space(self.blob_dir, sum(d.size for d in self._queue) + HEADROOM_BYTES)
            self._next(now_s)
        except (OSError, WherryError) as error:
            self._fail(error)

    def cancel(self) -> None:
        """Stop pulling; what was received stays for a later ``want``."""
        self._queue = []
        if self._current is not None:
            current, self._current = self._current, None
            # A disk that refuses the map costs a repeat: the map of before still holds.
            with contextlib.suppress(OSError):
                current.close()

    def clean(self) -> None:
        """Remove every blob, and every partial one but the last: only that may be asked for again,
        and a device that is ordered about must not fill its disk with beginnings."""
        partial = [path for path in self._incoming.iterdir() if not path.name.startswith(".")]
        kept = max(partial, key=lambda path: path.stat().st_mtime, default=None)
        for path in (*self.blob_dir.iterdir(), *self._incoming.iterdir()):
            if kept is None or path.parent == self.blob_dir or path.stem != kept.stem:
                path.unlink(missing_ok=True)

    def block(self, block: BlobBlock, now_s: float) -> None:
        """One block came in. Blocks that nobody asked for are ignored."""
        self.progress.received_bytes += len(block.data)
        current = self._current
        if current is None or block.digest != current.digest:
            return
        try:
            if current.write(block.index, block.data):
                self.progress.done_bytes += len(block.data)
            self._asked.discard(block.index)
            self._asked_s = now_s
            if current.complete:
                current.finish(self.blob(current.digest))
                self._current = None
                self._next(now_s)
            elif not self._asked:
                self._send(now_s)
        except (OSError, WherryError) as error:
            self._fail(error)

    def refused(self, digest: str, reason: str) -> None:
        """The manager does not serve this blob."""
        if self._current is not None and digest == self._current.digest:
            self._fail(WherryError(f"the fleet refused blob {digest[:19]}…: {reason}"))

    def tick(self, now_s: float, *, online: bool) -> None:
        """Ask again for what is still missing after a silence or a reconnect."""
        if self._current is not None and online and now_s - self._asked_s >= SILENCE_S:
            self._send(now_s)

    def _next(self, now_s: float) -> None:
        while self._queue:
            descriptor = self._queue.pop(0)
            self._current = PartialBlob(self._incoming, descriptor.digest, descriptor.size)
            self.progress.done_bytes += self._current.received_bytes
            if not self._current.complete:
                self._send(now_s)
                return
            self._current.finish(self.blob(descriptor.digest))
            self._current = None
        self._finished("")

    def _send(self, now_s: float) -> None:
        assert self._current is not None
        ranges = self._current.missing(WINDOW_BLOCKS)
        self._asked = {index for a, b in ranges for index in range(a, b + 1)}
        self._asked_s = now_s
        self._ask(
            encode_json(
                BlobAsk(digest=self._current.digest, block_bytes=BLOCK_BYTES, missing=ranges)
            )
        )

    def _fail(self, error: Exception) -> None:
        self.cancel()
        reason = error.message if isinstance(error, WherryError) else str(error)
        self._finished(reason or type(error).__name__)
