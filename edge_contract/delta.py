"""Deltas: one blob as its difference from another that the device holds.

``header | body``: the header says which coder made the body and how long base and result are; both
sides check the *result's* digest, so a delta is never trusted. Three coders:

- ``subtract``: byte by byte ``result - base`` modulo 256, along a table of segments. Retrained int8
  weights move by a step or two, so differences of -7 to 7 are packed two to a byte, others stand
  apart, and each of the two streams is compressed by zstd. (Two symbols a byte because zstd's
  literals take a whole bit at least: 8 % smaller than one a byte, on digits.)
- ``bsdiff``: the classic BSDIFF40 format (Colin Percival, 2003).
- ``zstd``: a zstd frame with the base as its dictionary (zstd's ``--patch-from``).

``apply_delta`` streams. Its memory does not grow with the blobs but for ``zstd``, whose base and
result are bounded instead. No byte beyond the announced length is ever produced, and no
decompressor is asked for more than a chunk at a time: a bomb ends as an error, not in memory.
"""

from __future__ import annotations

import bz2
import struct
from collections.abc import Callable, Iterator
from typing import BinaryIO, cast

import msgspec
import zstandard

from edge_contract.errors import ContractError

MAGIC = b"wdl1"
CODERS = ("subtract", "bsdiff", "zstd")
"""Names by the number in the header."""
HEADER_BYTES = 24
CHUNK_BYTES = 64 * 1024
SEGMENTS_MAX = 65536
SUBTRACT_WINDOW_LOG = 20
"""1 MB of zstd window: residuals have no far repeats."""
ZSTD_SUM_MAX_BYTES = 12_000_000
"""Of base and result together: the base lies in memory twice (ours and zstd's) and the window
covers both, so 24 + 16 MB at most."""
_ZSTD_WINDOW_MAX = 1 << 24
_HEADER = struct.Struct("<4sB3xQQ")
_SEGMENT = struct.Struct("<QQ")
_ABSENT = 2**64 - 1
"""In place of an offset: this segment is not in the base at all."""
_BSDIFF_MAGIC = b"BSDIFF40"
_ELSEWHERE = b"\x80"
"""Stands for a difference that did not fit into four bits, until it is put in its place."""
_SMALL = bytes(value % 256 for value in range(-7, 8))
_TO_NIBBLE = bytes((byte + 7) % 256 if (byte + 7) % 256 < 15 else 15 for byte in range(256))
_FROM_NIBBLE = _SMALL + _ELSEWHERE
_LOW_NIBBLE = bytes(_FROM_NIBBLE[byte & 15] for byte in range(256))
_HIGH_NIBBLE = bytes(_FROM_NIBBLE[byte >> 4] for byte in range(256))

assert _HEADER.size == HEADER_BYTES


class DeltaHeader(msgspec.Struct, frozen=True):
    """What a delta says of itself."""

    coder: str
    target_bytes: int
    base_bytes: int


class Segment(msgspec.Struct, frozen=True):
    """``length_bytes`` of the result, over the base from ``base_offset`` (None: over nothing)."""

    length_bytes: int
    base_offset: int | None


def encode_header(header: DeltaHeader) -> bytes:
    """The first ``HEADER_BYTES`` of a delta."""
    return _HEADER.pack(MAGIC, CODERS.index(header.coder), header.target_bytes, header.base_bytes)


def decode_header(data: bytes) -> DeltaHeader:
    """Parse the first ``HEADER_BYTES`` of a delta.

    Raises:
        ContractError: not a delta of ours.
    """
    if len(data) < HEADER_BYTES or data[:4] != MAGIC or data[4] >= len(CODERS):
        raise ContractError(f"not a delta: it begins with {data[:8]!r}, expected {MAGIC!r}")
    _, coder, target_bytes, base_bytes = _HEADER.unpack(data[:HEADER_BYTES])
    return DeltaHeader(CODERS[coder], target_bytes, base_bytes)


def encode_segments(segments: list[Segment]) -> bytes:
    """The table at the beginning of a ``subtract`` body."""
    parts = [struct.pack("<I", len(segments))]
    parts += [
        _SEGMENT.pack(s.length_bytes, _ABSENT if s.base_offset is None else s.base_offset)
        for s in segments
    ]
    return b"".join(parts)


def encode_residual(table: bytes, residual: bytes, compress: Callable[[bytes], bytes]) -> bytes:
    """The body of a ``subtract`` delta: segments and packed differences, then what stands apart."""
    nibbles = residual.translate(_TO_NIBBLE) + b"\x07" * (len(residual) % 2)
    half = len(nibbles) // 2
    even, odd = (int.from_bytes(nibbles[first::2], "little") for first in (0, 1))
    packed = (even | odd << 4).to_bytes(half, "little")
    first = compress(table + packed)
    return len(first).to_bytes(8, "little") + first + compress(residual.translate(None, _SMALL))


def subtract_bytes(left: bytes, right: bytes) -> bytes:
    """``left - right`` byte by byte, modulo 256; both of one length.

    All bytes at once in one big integer: the high bits are kept apart so that nothing borrows from
    the neighbour (H. S. Warren, Hacker's Delight, section 2-18).
    """
    high, low = _masks(len(left))
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    difference = ((a | high) - (b & low)) ^ ((a ^ b ^ high) & high)
    return difference.to_bytes(len(left), "little")


def add_bytes(left: bytes, right: bytes) -> bytes:
    """``left + right`` byte by byte, modulo 256; both of one length."""
    high, low = _masks(len(left))
    a, b = int.from_bytes(left, "little"), int.from_bytes(right, "little")
    return (((a & low) + (b & low)) ^ ((a ^ b) & high)).to_bytes(len(left), "little")


def apply_delta(
    delta: BinaryIO, base: BinaryIO, *, target_bytes: int, base_bytes: int
) -> Iterator[bytes]:
    """The chunks of the result, in order.

    Args:
        delta: the whole delta, seekable.
        base: the blob that it was made against, seekable.
        target_bytes, base_bytes: as the signed manifests have them; others are refused.

    Raises:
        ContractError: truncated, damaged, for another base, or longer than it may be.
    """
    header = decode_header(delta.read(HEADER_BYTES))
    if (header.target_bytes, header.base_bytes) != (target_bytes, base_bytes):
        raise ContractError(
            f"delta: expected one from {base_bytes} to {target_bytes} bytes, got one from"
            f" {header.base_bytes} to {header.target_bytes}"
        )
    coder = {"subtract": _apply_subtract, "bsdiff": _apply_bsdiff, "zstd": _apply_zstd}
    made_bytes = 0
    try:
        for chunk in coder[header.coder](delta, base, header):
            made_bytes += len(chunk)
            if made_bytes > target_bytes:
                raise ContractError(f"delta: it makes more than the {target_bytes} bytes it said")
            yield chunk
    except (zstandard.ZstdError, EOFError, OSError, ValueError, OverflowError) as error:
        # A decompressor on damaged data, or a length beyond what any file has; a disk that fails
        # to read is no different to the caller.
        raise ContractError(f"delta ({header.coder}): damaged: {error}") from error
    if made_bytes != target_bytes:
        raise ContractError(
            f"delta ({header.coder}): expected {target_bytes} bytes, got {made_bytes}: truncated"
        )


def _apply_subtract(delta: BinaryIO, base: BinaryIO, header: DeltaHeader) -> Iterator[bytes]:
    packed_bytes = int.from_bytes(_exactly(delta.read, 8), "little")
    packed_at = HEADER_BYTES + 8
    packed = _zstd_part(delta, packed_at, packed_bytes)
    apart = _zstd_part(delta, packed_at + packed_bytes, None)
    (count,) = struct.unpack("<I", _exactly(packed, 4))
    if not 0 < count <= SEGMENTS_MAX:
        raise ContractError(f"delta: {count} segments, expected 1 to {SEGMENTS_MAX}")
    segments = list(_SEGMENT.iter_unpack(_exactly(packed, count * _SEGMENT.size)))
    if sum(length for length, _ in segments) != header.target_bytes:
        raise ContractError("delta: its segments are not as long as its result")
    residual = _Residual(packed, apart, header.target_bytes)
    for length, offset in segments:
        if offset != _ABSENT:
            if offset + length > header.base_bytes:
                raise ContractError("delta: a segment lies outside the base")
            base.seek(offset)
        for step in _steps(length):
            piece = residual.read(step)
            yield piece if offset == _ABSENT else add_bytes(piece, _exactly(base.read, step))
    if packed(1) or apart(1):
        raise ContractError("delta: it goes on behind its end")


class _Residual:
    """The differences of a ``subtract`` delta, unpacked a chunk at a time.

    Args:
        packed: reads the stream of packed differences.
        apart: reads the stream of those that did not fit.
        left_bytes: how many differences there are in all.
    """

    def __init__(
        self, packed: Callable[[int], bytes], apart: Callable[[int], bytes], left_bytes: int
    ) -> None:
        self._packed = packed
        self._apart = apart
        self._left = left_bytes
        self._ready = b""

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many of them."""
        while len(self._ready) < size_bytes:
            self._ready += self._unpack(min(CHUNK_BYTES, self._left))
        data, self._ready = self._ready[:size_bytes], self._ready[size_bytes:]
        return data

    def _unpack(self, size_bytes: int) -> bytes:
        if not size_bytes:
            raise ContractError("delta: its segments want more than its result has")
        self._left -= size_bytes
        packed = _exactly(self._packed, (size_bytes + 1) // 2)
        both = bytearray(2 * len(packed))
        both[0::2] = packed.translate(_LOW_NIBBLE)
        both[1::2] = packed.translate(_HIGH_NIBBLE)
        parts = bytes(both[:size_bytes]).split(_ELSEWHERE)
        literals = _exactly(self._apart, len(parts) - 1)
        woven = [parts[0]]
        for at, part in enumerate(parts[1:]):
            woven += (literals[at : at + 1], part)
        return b"".join(woven)


def _apply_bsdiff(delta: BinaryIO, base: BinaryIO, header: DeltaHeader) -> Iterator[bytes]:
    start = delta.tell()
    head = _exactly(delta.read, 32)
    control_bytes, diff_bytes, said_bytes = (_signed(head[at : at + 8]) for at in (8, 16, 24))
    if head[:8] != _BSDIFF_MAGIC or min(control_bytes, diff_bytes) < 0:
        raise ContractError("delta (bsdiff): its own header is damaged")
    if said_bytes != header.target_bytes:
        raise ContractError(f"delta (bsdiff): it says {said_bytes} bytes inside")
    diff_at = start + 32 + control_bytes
    control = _Bz2Part(delta, start + 32, control_bytes)
    diff = _Bz2Part(delta, diff_at, diff_bytes)
    extra = _Bz2Part(delta, diff_at + diff_bytes, None)
    made_bytes = base_at = 0
    for _ in range(header.target_bytes + 16):  # an entry makes a byte at least, but for a few
        if made_bytes >= header.target_bytes:
            return
        entry = control.read(24)
        add, insert, move = (_signed(entry[at : at + 8]) for at in (0, 8, 16))
        if min(add, insert) < 0 or made_bytes + add + insert > header.target_bytes:
            raise ContractError("delta (bsdiff): an entry reaches beyond the end")
        for step in _steps(add):
            yield add_bytes(diff.read(step), _padded(base, base_at, step, header.base_bytes))
            base_at += step
        for step in _steps(insert):
            yield extra.read(step)
        made_bytes += add + insert
        base_at += move


def _apply_zstd(delta: BinaryIO, base: BinaryIO, header: DeltaHeader) -> Iterator[bytes]:
    if header.base_bytes + header.target_bytes > ZSTD_SUM_MAX_BYTES:
        raise ContractError(
            f"delta (zstd): {header.base_bytes} and {header.target_bytes} bytes, at most"
            f" {ZSTD_SUM_MAX_BYTES} together"
        )
    dictionary = zstandard.ZstdCompressionDict(
        _exactly(base.read, header.base_bytes), dict_type=zstandard.DICT_TYPE_RAWCONTENT
    )
    decompressor = zstandard.ZstdDecompressor(
        dict_data=dictionary, max_window_size=_ZSTD_WINDOW_MAX
    )
    stream = decompressor.stream_reader(delta)
    for step in _steps(header.target_bytes):
        yield _exactly(stream.read, step)
    if stream.read(1):
        raise ContractError("delta (zstd): it goes on behind its end")


class _Part:
    """A part of a file as a reader of its own.

    Args:
        file: its position is moved with every read.
        offset_bytes: where the part begins.
        length_bytes: how long it is; None: to the end of the file.
    """

    def __init__(self, file: BinaryIO, offset_bytes: int, length_bytes: int | None) -> None:
        self._file = file
        self._at = offset_bytes
        self._left = length_bytes

    def read(self, size_bytes: int = CHUNK_BYTES) -> bytes:
        """Up to so many bytes; b"" at the end."""
        wanted = size_bytes if self._left is None else min(size_bytes, self._left)
        self._file.seek(self._at)
        data = self._file.read(wanted)
        self._at += len(data)
        if self._left is not None:
            self._left -= len(data)
        return data


def _zstd_part(
    file: BinaryIO, offset_bytes: int, length_bytes: int | None
) -> Callable[[int], bytes]:
    decompressor = zstandard.ZstdDecompressor(max_window_size=1 << SUBTRACT_WINDOW_LOG)
    part = _Part(file, offset_bytes, length_bytes)
    stream = decompressor.stream_reader(cast(BinaryIO, part), CHUNK_BYTES)
    return cast(Callable[[int], bytes], stream.read)


class _Bz2Part:
    """One of the three bzip2 streams of a BSDIFF40 file, read piece by piece."""

    def __init__(self, file: BinaryIO, offset_bytes: int, length_bytes: int | None) -> None:
        self._part = _Part(file, offset_bytes, length_bytes)
        self._decompressor = bz2.BZ2Decompressor()

    def read(self, size_bytes: int) -> bytes:
        """Exactly so many bytes.

        Raises:
            ContractError: there are no more.
        """
        return _exactly(self._some, size_bytes)

    def _some(self, size_bytes: int) -> bytes:
        while not self._decompressor.eof:
            data = self._part.read() if self._decompressor.needs_input else b""
            if self._decompressor.needs_input and not data:
                return b""
            made = self._decompressor.decompress(data, size_bytes)
            if made:
                return made
        return b""


def _exactly(read: Callable[[int], bytes], size_bytes: int) -> bytes:
    parts = []
    left = size_bytes
    while left:
        part = read(left)
        if not part:
            raise ContractError(f"delta: {left} bytes are missing: truncated, or for another base")
        parts.append(part)
        left -= len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def _padded(base: BinaryIO, offset_bytes: int, size_bytes: int, base_bytes: int) -> bytes:
    """Bytes of the base; zeros where bsdiff reaches outside of it."""
    first = min(max(offset_bytes, 0), base_bytes)
    last = min(max(offset_bytes + size_bytes, 0), base_bytes)
    base.seek(first)
    data = _exactly(base.read, last - first)
    before = first - offset_bytes if first < last else 0
    return (bytes(before) + data).ljust(size_bytes, b"\0")


def _signed(data: bytes) -> int:
    """bsdiff's numbers: little endian, the highest bit is the sign."""
    value = int.from_bytes(data, "little")
    return -(value & (2**63 - 1)) if value >> 63 else value


def _steps(length_bytes: int) -> Iterator[int]:
    while length_bytes > 0:
        step = min(CHUNK_BYTES, length_bytes)
        yield step
        length_bytes -= step


def _masks(length: int) -> tuple[int, int]:
    if length not in _MASKS:
        _MASKS.clear()
        _MASKS[CHUNK_BYTES] = _FULL
        _MASKS[length] = _make_masks(length)
    return _MASKS[length]


def _make_masks(length: int) -> tuple[int, int]:
    return int.from_bytes(b"\x80" * length, "little"), int.from_bytes(b"\x7f" * length, "little")


_FULL = _make_masks(CHUNK_BYTES)
_MASKS = {CHUNK_BYTES: _FULL}
"""Of the full chunk and of the last other length."""
