"""The journal: what was decided, before it is done. One JSON line an entry, each with its CRC.

Guarantee: when ``append`` returns, the entry survives a power cut; when it raises, the entry is
not there. So after a cut the last entry is the last decision, and at most its effects are missing.
A torn last line is the cut itself and is dropped; a bad line elsewhere is damage: it is kept aside
and said.

The journal is also the audit trail. ``facts`` say which version was in which slot, and when;
compaction drops old states, never a fact. Anyone can read it: every line is plain JSON, and
``crc`` is the CRC-32 of the line's bytes before ``,"crc"``.
"""

from __future__ import annotations

import contextlib
import os
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edge_agent.errors import AgentError
from edge_agent.update.effects import Fact
from edge_agent.update.state import UpdateState
from edge_contract.codec import encode_json
from edge_contract.errors import ContractError
from edge_contract.layout import fsync_dir, write_durably

_CRC_KEY = b',"crc":"'
_TAIL_BYTES = len(_CRC_KEY) + 8 + len(b'"}')


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One step of the update machine.

    n: grows by one an entry; a gap shows that a damaged line was lost.
    ts: unix s of the device's wall clock, as wrong as that may be.
    state: after the event; None in an old entry that compaction kept for its facts.
    """

    n: int
    ts: float
    event: str
    state: UpdateState | None = None
    facts: list[Fact] = []


class Journal:
    """The journal in ``path``, replayed, mended and compacted.

    A disk that does not let it be read or written stops no model: then ``append`` refuses. What
    cannot be read is left as it is, and refused until the next start.

    Args:
        path: the file; its directory is made where it is missing.
        wall_s: the device's wall clock, unix seconds.

    ``state`` is the last one written, ``notes`` are sentences about damage that was found.
    """

    def __init__(self, path: Path, wall_s: Callable[[], float]) -> None:
        self._path = path
        self._wall_s = wall_s
        self._n = 0
        self._file = -1
        self._size_bytes = 0
        self._unread: AgentError | None = None
        self.state = UpdateState()
        self.notes: list[str] = []
        try:
            self._replay()
        except OSError as error:
            self._unread = _unusable(path, error)
            self.notes.append(f"{self._unread.message}; no update until then: {self._unread.hint}")
            return
        # What was replayed is acted upon from here on, so it must be durable. Where the disk
        # refuses, ``append`` tries again.
        with contextlib.suppress(OSError):
            self._make_ready()

    def append(self, event: str, state: UpdateState, facts: Sequence[Fact] = ()) -> None:
        """Write one step durably.

        Raises:
            AgentError: the disk refused; nothing of the entry remains.
        """
        if self._unread is not None:
            raise self._unread
        n = self._n + 1
        entry = Entry(n=n, ts=self._wall_s(), event=event, state=state, facts=list(facts))
        line = encode_line(entry)
        try:
            self._make_ready()
            _write_all(self._file, line)
            os.fsync(self._file)
        except OSError as error:
            # Half a line would spoil the next one; after a failed fsync nothing is certain. Where
            # the disk refuses this as well, the next entry's first step is to do it.
            with contextlib.suppress(OSError):
                self._cut()
            raise _unusable(self._path, error) from error
        self._n = n
        self._size_bytes += len(line)
        self.state = state

    def close(self) -> None:
        """Release the file."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _replay(self) -> None:
        directory = self._path.parent
        directory.mkdir(exist_ok=True)
        for leftover in directory.glob(f".{self._path.name}.*.part"):
            with contextlib.suppress(OSError):  # a disk that takes no write stops no model
                leftover.unlink()
        data = self._path.read_bytes() if self._path.exists() else b""
        entries, damaged, torn_bytes = _split(data)
        self.state = next((e.state for e in reversed(entries) if e.state), UpdateState())
        self._n = entries[-1].n if entries else 0
        self._size_bytes = len(data) - torn_bytes
        self._rewrite(data, entries, damaged, torn_bytes)

    def _make_ready(self) -> None:
        """Open the file, durably there, without what a cut or a refused write left at its end."""
        if self._file < 0:
            file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.fsync(file)
                fsync_dir(self._path.parent)
                fsync_dir(self._path.parent.parent)
            except OSError:
                os.close(file)
                raise
            self._file = file
        self._cut()

    def _cut(self) -> None:
        if self._file >= 0 and os.fstat(self._file).st_size > self._size_bytes:
            os.ftruncate(self._file, self._size_bytes)

    def _rewrite(
        self, data: bytes, entries: list[Entry], damaged: list[int], torn_bytes: int
    ) -> None:
        """Replace the file by a shorter one. A full disk leaves it as it is."""
        compact = b"".join(encode_line(entry) for entry in _compacted(entries))
        if len(compact) >= len(data) - torn_bytes:
            return
        try:
            if damaged:
                aside = self._path.with_name(f"{self._path.name}.damaged-{self._n}")
                write_durably(aside, data)
                self.notes.append(
                    f"{len(damaged)} lines of {self._path} are damaged (the first is line"
                    f" {damaged[0]}); the whole is kept as {aside.name}, the rest is used"
                )
            write_durably(self._path, compact)
        except OSError as error:
            self.notes.append(f"{self._path} could not be compacted: {error.strerror}")
            # The rename may have happened before the disk refused.
            self._size_bytes = min(self._path.stat().st_size, self._size_bytes)
            return
        self._size_bytes = len(compact)


def read_journal(path: Path) -> list[Entry]:
    """Every readable entry, oldest first; changes nothing.

    Raises:
        AgentError: the file cannot be read.
    """
    try:
        return _split(path.read_bytes())[0]
    except OSError as error:
        raise _unusable(path, error) from error


def encode_line(entry: Entry) -> bytes:
    """One line: the entry's JSON with its CRC as the last key."""
    body = encode_json(entry)[:-1]
    return body + _CRC_KEY + b'%08x"}\n' % zlib.crc32(body)


def decode_line(line: bytes) -> Entry:
    """The entry of one line, without its line feed.

    Raises:
        ContractError: the CRC or the form is wrong.
    """
    body, tail = line[:-_TAIL_BYTES], line[-_TAIL_BYTES:]
    if tail != _CRC_KEY + b'%08x"}' % zlib.crc32(body):
        raise ContractError("journal line: the CRC differs")
    try:
        return msgspec.json.decode(body + b"}", type=Entry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ContractError(f"journal line: {error}") from error


def _split(data: bytes) -> tuple[list[Entry], list[int], int]:
    """(entries, numbers of damaged lines, bytes of the torn tail)."""
    lines = data.split(b"\n")
    tail = lines.pop()  # after the last line feed: nothing, or what a cut left
    entries: list[Entry] = []
    bad: list[int] = []
    for number, line in enumerate(lines, start=1):
        try:
            entries.append(decode_line(line))
        except ContractError:
            bad.append(number)
    return entries, bad, len(tail)


def _compacted(entries: list[Entry]) -> list[Entry]:
    """The last state, and every entry that holds a fact."""
    last = next((e.n for e in reversed(entries) if e.state), None)
    kept = []
    for entry in entries:
        if entry.n == last:
            kept.append(entry)
        elif entry.facts:
            kept.append(Entry(n=entry.n, ts=entry.ts, event=entry.event, facts=entry.facts))
    return kept


def _write_all(file: int, data: bytes) -> None:
    while data:
        data = data[os.write(file, data) :]


def _unusable(path: Path, error: OSError) -> AgentError:
    return AgentError(
        f"the update journal {path} cannot be used: {error.strerror or error}",
        hint=f"free some space or give the file to the agent's user: ls -l {path}; df {path}",
    )
