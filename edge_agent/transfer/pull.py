"""Ask for missing blocks until every wanted blob is whole. Several at a time, one loop owns it."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.transfer.beside import Beside, at_once
from edge_agent.transfer.pace import Pace
from edge_agent.transfer.partial import PartialBlob, is_full, require_space
from edge_agent.transfer.under_way import UnderWay
from edge_contract.digest import hex_of
from edge_contract.errors import WherryError
from edge_contract.manifest import Descriptor
from edge_contract.messages import BlobAsk, BlobBlock

log = logging.getLogger("edge_agent")

HEADROOM_BYTES = 8 << 20
"""Left free for journal, spool and the rest of the system."""
PULLS_MAX = 4
"""Blobs under way at a time."""
MAP_EVERY_S = 10.0
"""What a power cut on a slow link costs at most."""
_SECTOR_BYTES = 512
"""What ``st_blocks`` counts in."""


class Progress(msgspec.Struct):
    """How far the wanted blobs are."""

    total_bytes: int = 0
    done_bytes: int = 0
    received_bytes: int = 0
    """Over the wire in this process, repeats included."""
    repeated_bytes: int = 0
    """Of these, what had come before."""

    @property
    def percent(self) -> float:
        """0 to 100."""
        return 100.0 * self.done_bytes / self.total_bytes if self.total_bytes else 100.0


class BlobPuller:
    """Pulls a list of blobs into ``blobs/``.

    Args:
        state_dir: holds ``blobs/`` (whole, checked) and ``incoming/`` (partial).
        ask: sends a question; False while it cannot be sent, which is tried again.
        finished: called once with "" or with the reason for the failure.
        pace: how much may be under way.
        room_bytes: what a byte budget leaves for blobs now.
        beside: checks blobs that have come, which may take minutes for a large one.
    """

    def __init__(
        self,
        state_dir: Path,
        ask: Callable[[BlobAsk], bool],
        finished: Callable[[str], None],
        *,
        pace: Pace | None = None,
        room_bytes: Callable[[], float] = lambda: float("inf"),
        beside: Beside = at_once,
    ) -> None:
        self.blob_dir = state_dir / "blobs"
        self._incoming = state_dir / "incoming"
        for directory in (self.blob_dir, self._incoming):
            directory.mkdir(parents=True, exist_ok=True)
        self._ask = ask
        self._finished = finished
        self._pace = pace or Pace()
        self._room_bytes = room_bytes
        self._beside = beside
        self._checking: set[str] = set()
        """Blobs that have come and are being checked. Their files are not touched meanwhile."""
        self._awaited: set[str] = set()
        """Of these, what is wanted now."""
        self._stale: set[str] = set()
        """Of these, what a cleaning left alone: it goes once it is checked and not wanted."""
        self._last = ""
        """The blob that was begun last, by its digest; "" in a process that began none."""
        self._queue: list[Descriptor] = []
        self._pulls: dict[str, UnderWay] = {}
        self._heard_s = 0.0
        self._mapped_s = 0.0
        self.progress = Progress()
        self.full = False
        """Whether the disk had no room, where the last pull failed."""
        self.waits_for_budget = False
        """Whether something is missing that the byte budget does not allow today."""

    @property
    def active(self) -> bool:
        """Whether something is being pulled."""
        return bool(self._pulls)

    @property
    def digests(self) -> list[str]:
        """What is being pulled."""
        return list(self._pulls)

    def size_bytes(self, digest: str) -> int | None:
        """How large a blob that is being pulled has to be; None for one that is not."""
        pull = self._pulls.get(digest)
        return None if pull is None else pull.partial.size_bytes

    @property
    def goodput_bytes_s(self) -> float:
        """As measured last; 0 before anything was."""
        return self._pace.goodput_bytes_s

    @property
    def in_flight_bytes(self) -> int:
        """Asked for and not here yet."""
        return sum(pull.in_flight_bytes for pull in self._pulls.values())

    def blob(self, digest: str) -> Path:
        """Where a whole blob lies."""
        return self.blob_dir / hex_of(digest)

    def begun(self, descriptor: Descriptor) -> bool:
        """Whether a part of this blob is here already."""
        return (self._incoming / f"{hex_of(descriptor.digest)}.map").exists()

    def want(self, descriptors: list[Descriptor], now_s: float, *, beside_bytes: int = 0) -> None:
        """Begin. Blobs that are here already are not asked for; what came before is resumed.

        ``beside_bytes``: what is to be made of them needs room as well.
        """
        self.cancel()
        todo = {d.digest: d for d in descriptors if not self.blob(d.digest).exists()}
        self._awaited = self._checking & todo.keys()
        self._stale -= {d.digest for d in descriptors}
        self._queue = [d for d in todo.values() if d.digest not in self._awaited]
        total = sum(d.size for d in {d.digest: d for d in descriptors}.values())
        here = total - sum(d.size for d in self._queue)
        self.progress = Progress(total, here)
        try:
            missing_bytes = sum(d.size - self._on_disk_bytes(d) for d in self._queue)
            require_space(self.blob_dir, missing_bytes + beside_bytes + HEADROOM_BYTES)
            self._open_more(now_s)
        except (OSError, WherryError) as error:
            self._fail(error)

    def cancel(self) -> None:
        """Stop pulling; what was received stays for a later ``want``."""
        self._queue = []
        self._awaited = set()
        pulls, self._pulls = self._pulls, {}
        self.waits_for_budget = False
        for pull in pulls.values():
            # A disk that refuses the map costs a repeat: the map of before still holds.
            with contextlib.suppress(OSError):
                pull.partial.close()

    def clean(self) -> None:
        """Remove every blob, and every partial one but the last: only that may be asked for again,
        and a device that is ordered about must not fill its disk with beginnings.

        What is being pulled or checked is not touched: a newer order may want it already, and the
        worker moves it from one directory to the other.
        """
        self._stale |= self._checking - self._awaited
        busy = {hex_of(digest) for digest in (*self._checking, *self._pulls)}
        idle = [path for path in self._incoming.iterdir() if _hex_in(path) not in busy]
        partial = [path for path in idle if not path.name.startswith(".")]
        kept = hex_of(self._last) if self._last else ""
        if kept not in {_hex_in(path) for path in partial}:
            newest = max(partial, key=lambda path: path.stat().st_mtime, default=None)
            kept = _hex_in(newest) if newest else ""
        for path in idle:
            if path.name.startswith(".") or _hex_in(path) != kept:
                path.unlink(missing_ok=True)
        for path in self.blob_dir.iterdir():
            if _hex_in(path) not in busy:
                path.unlink(missing_ok=True)

    def block(self, block: BlobBlock, now_s: float, *, shared: bool = False) -> None:
        """One block came in. Blocks of blobs that nobody wants are ignored.

        ``shared``: it was sent to all that listen, and may well be here already.
        """
        self.progress.received_bytes += len(block.data)
        pull = self._pulls.get(block.digest)
        if pull is None:
            return
        try:
            new_bytes = pull.partial.write(block.offset_bytes, block.data)
            self.progress.done_bytes += new_bytes
            if new_bytes:
                # Only what is new ends a silence: a server may send the same for ever.
                self._heard_s = now_s
                self._pace.progressed()
            waited_s = pull.settle(block, now_s)
            if new_bytes < len(block.data):
                self.progress.repeated_bytes += len(block.data) - new_bytes
                if not shared:
                    self._pace.repeated()
            self._pace.arrived(len(block.data), waited_s, now_s)
            if pull.partial.complete:
                self._check_later(self._pulls.pop(block.digest).partial)
                self._open_more(now_s, pull.partial)
            else:
                self._pump(now_s)
        except (OSError, WherryError) as error:
            self._fail(error)

    def refused(self, digest: str, reason: str) -> None:
        """The manager does not serve this blob."""
        if digest in self._pulls:
            self._fail(WherryError(f"the fleet refused blob {digest[:19]}…: {reason}"))

    def reconnected(self, now_s: float) -> None:
        """What was under way is lost with the connection: ask for what is missing, at once."""
        self._pace.reconnected()
        self._ask_anew()
        self._guarded_pump(now_s)

    def tick(self, now_s: float, *, online: bool) -> None:
        """Ask again for what is still missing after a silence; keep the maps from growing old."""
        if not self._pulls:
            return
        if now_s - self._mapped_s >= MAP_EVERY_S:
            self._mapped_s = now_s
            self._save_maps()
        if not online:
            return
        if now_s - self._heard_s >= self._pace.silence_s:
            if self.in_flight_bytes:
                self._pace.silent()
            # Also where nothing is under way: less may have come than was asked for.
            self._ask_anew()
            self._heard_s = now_s
        self._guarded_pump(now_s)

    def _save_maps(self) -> None:
        try:
            for pull in self._pulls.values():
                if pull.partial.unmapped_bytes:
                    pull.partial.save_map()
        except OSError as error:
            self._fail(error)

    def _open_more(self, now_s: float, *came: PartialBlob) -> None:
        """Begin the next blobs, and check those that came whole; without any, all is done."""
        whole = list(came)
        try:
            while self._queue and len(self._pulls) < PULLS_MAX:
                descriptor = self._queue.pop(0)
                partial = PartialBlob(self._incoming, descriptor.digest, descriptor.size)
                self._last = descriptor.digest
                self.progress.done_bytes += partial.received_bytes
                if partial.complete:
                    self._check_later(partial)
                    whole.append(partial)
                else:
                    self._pulls[descriptor.digest] = UnderWay(partial)
            if self._pulls:
                self._pump(now_s)
        finally:
            # Last: where it is done at once, one of them may end it all, and begin the next.
            for partial in whole:
                self._check(partial)
        if not (whole or self._pulls or self._awaited):
            self._finished("")

    def _check_later(self, partial: PartialBlob) -> None:
        self._checking.add(partial.digest)
        self._awaited.add(partial.digest)

    def _check(self, partial: PartialBlob) -> None:
        target = self.blob(partial.digest)
        self._beside(
            lambda: _finish(partial, target), lambda reason: self._checked(partial, reason)
        )

    def _checked(self, partial: PartialBlob, reason: str) -> None:
        """A blob was found whole and right, or not."""
        digest = partial.digest
        self._checking.discard(digest)
        if digest not in self._awaited:
            # Nobody wants it any more.
            if digest in self._stale:
                self._stale.discard(digest)
                with contextlib.suppress(OSError):
                    self.blob(digest).unlink(missing_ok=True)
            return
        self._awaited.discard(digest)
        if partial.damaged and partial.resumed:
            self._from_nothing(partial)
        elif reason:
            self._fail(partial.failure or WherryError(reason))
        elif not (self._pulls or self._queue or self._awaited):
            self._finished("")

    def _from_nothing(self, damaged: PartialBlob) -> None:
        """A part of it lay on the disk before, and a disk may forget what it held: once more. The
        next tick asks."""
        log.warning("update: %s… was damaged on the disk; it is fetched anew", damaged.digest[:19])
        try:
            partial = PartialBlob(self._incoming, damaged.digest, damaged.size_bytes)
        except OSError as error:
            self._fail(error)
            return
        self.progress.done_bytes -= damaged.size_bytes
        self._pulls[damaged.digest] = UnderWay(partial)

    def _on_disk_bytes(self, descriptor: Descriptor) -> int:
        """What the disk has given to a partial blob already."""
        try:
            stat = (self._incoming / hex_of(descriptor.digest)).stat()
        except OSError:
            return 0
        return min(stat.st_blocks * _SECTOR_BYTES, descriptor.size)

    def _ask_anew(self) -> None:
        self._pace.rested()
        for pull in self._pulls.values():
            pull.ask_anew()

    def _guarded_pump(self, now_s: float) -> None:
        try:
            self._pump(now_s)
        except (OSError, WherryError) as error:
            self._fail(error)

    def _pump(self, now_s: float) -> None:
        """Ask for as much as may be under way. Small questions wait for one another."""
        in_flight_bytes = self.in_flight_bytes
        window_bytes = self._pace.window_bytes
        free_bytes = min(window_bytes - in_flight_bytes, self._pace.allowed_bytes(now_s))
        room_bytes = self._room_bytes() - in_flight_bytes
        block_bytes = self._pace.block_bytes
        self.waits_for_budget = room_bytes < block_bytes and not in_flight_bytes
        free_bytes = min(free_bytes, room_bytes)
        if in_flight_bytes and free_bytes < window_bytes / 4:
            return
        if not in_flight_bytes:
            self._pace.rested()
        for pull in self._pulls.values():
            if free_bytes < block_bytes:
                return
            ranges, size_bytes, asked_block_bytes = pull.next_blocks(block_bytes, free_bytes, now_s)
            if not ranges:
                continue
            question = BlobAsk(
                digest=pull.partial.digest,
                block_bytes=asked_block_bytes,
                missing=ranges,
                more=not pull.fresh,
            )
            if not self._ask(question):
                pull.ask_anew()
                return
            if not in_flight_bytes:
                self._heard_s = now_s
            in_flight_bytes += size_bytes
            pull.fresh = False
            self._pace.asked(size_bytes)
            free_bytes -= size_bytes

    def _fail(self, error: Exception) -> None:
        self.cancel()
        self.full = is_full(error)
        if isinstance(error, WherryError):
            reason = error.message
        elif isinstance(error, OSError) and error.strerror:
            reason = f"{error.strerror}: {self._incoming.parent}"
        else:
            reason = str(error)
        self._finished(reason or type(error).__name__)


def _hex_in(path: Path) -> str:
    """Of which blob a file of the store is: the blob, its part, or the map of a part."""
    return path.name.removeprefix(".").partition(".")[0]


def _finish(partial: PartialBlob, target: Path) -> str:
    """Check a blob and move it to ``target``; why not, or ""."""
    try:
        partial.finish(target)
    except OSError as error:
        # A full disk: the bytes stay, only the file is let go.
        with contextlib.suppress(OSError):
            partial.close()
        partial.failure = error
        return str(error)
    except WherryError as error:
        partial.failure = error
        return error.message
    return ""
