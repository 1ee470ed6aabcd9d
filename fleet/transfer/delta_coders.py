"""Makes deltas: tries every coder and keeps the smallest that a device can apply.

Run as a program (``python -m fleet.transfer.delta_coders BASE TARGET OUT``) it does one pair in a
process of its own: bsdiff's suffix sort takes seventeen times the base in memory, and the manager
must not keep that.
"""

from __future__ import annotations

import io
import os
import sys
from collections import Counter
from pathlib import Path

import msgspec
import zstandard

from edge_contract.delta import (
    SUBTRACT_WINDOW_LOG,
    ZSTD_SUM_MAX_BYTES,
    DeltaHeader,
    Segment,
    apply_delta,
    encode_header,
    encode_residual,
    encode_segments,
    subtract_bytes,
)
from edge_contract.layout import write_durably
from fleet.errors import FleetError

BSDIFF_MAX_BYTES = 16_000_000
"""Of the base: its suffix sort takes a quarter of a gigabyte then."""
_LEVEL = 19
_PIECE_BYTES = 256
"""Alignment is chosen piece by piece."""
_ANCHOR_BYTES = 12
"""A run that long that stands once in the base says where it has moved to."""
_SHIFTS_MAX = 12
_SWITCH_COST_BYTES = 24
"""A new segment costs 16 bytes in the table; less gain than that is none."""


class Candidate(msgspec.Struct, frozen=True):
    """What one coder came to. ``data`` is the whole delta, header included."""

    coder: str
    data: bytes


def make_deltas(base: bytes, target: bytes) -> list[Candidate]:
    """The delta of every coder that is allowed at this size, smallest first."""
    candidates = [Candidate("subtract", subtract_delta(base, target))]
    if len(base) + len(target) <= ZSTD_SUM_MAX_BYTES:
        candidates.append(Candidate("zstd", zstd_delta(base, target)))
    if max(len(base), len(target)) <= BSDIFF_MAX_BYTES:
        candidates.append(Candidate("bsdiff", bsdiff_delta(base, target)))
    return sorted(candidates, key=lambda candidate: len(candidate.data))


def smallest_delta(base: bytes, target: bytes) -> Candidate:
    """The smallest delta that was seen to give ``target`` back.

    Raises:
        FleetError: no coder's delta does.
    """
    for candidate in make_deltas(base, target):
        chunks = apply_delta(
            io.BytesIO(candidate.data),
            io.BytesIO(base),
            target_bytes=len(target),
            base_bytes=len(base),
        )
        if b"".join(chunks) == target:
            return candidate
    raise FleetError("no coder's delta gives the target back; devices get it whole")


def subtract_delta(base: bytes, target: bytes) -> bytes:
    """Byte by byte ``target - base``, piece by piece along the best alignment of the two."""
    segments = align(base, target)
    parts = []
    at = 0
    for segment in segments:
        piece = target[at : at + segment.length_bytes]
        if segment.base_offset is not None:
            offset = segment.base_offset
            piece = subtract_bytes(piece, base[offset : offset + len(piece)])
        parts.append(piece)
        at += segment.length_bytes
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=SUBTRACT_WINDOW_LOG, write_checksum=False
    )
    compress = zstandard.ZstdCompressor(compression_params=parameters).compress
    body = encode_residual(encode_segments(segments), b"".join(parts), compress)
    return encode_header(DeltaHeader("subtract", len(target), len(base))) + body


def zstd_delta(base: bytes, target: bytes) -> bytes:
    """A zstd frame with the base as its dictionary."""
    dictionary = zstandard.ZstdCompressionDict(base, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    window_log = min(24, max(18, (len(base) + len(target)).bit_length()))
    parameters = zstandard.ZstdCompressionParameters.from_level(
        _LEVEL, window_log=window_log, enable_ldm=True, write_checksum=False
    )
    compressor = zstandard.ZstdCompressor(compression_params=parameters, dict_data=dictionary)
    header = encode_header(DeltaHeader("zstd", len(target), len(base)))
    return header + compressor.compress(target)


def bsdiff_delta(base: bytes, target: bytes) -> bytes:
    """BSDIFF40, by bsdiff4."""
    import bsdiff4  # type: ignore[import-untyped]

    header = encode_header(DeltaHeader("bsdiff", len(target), len(base)))
    return header + bytes(bsdiff4.diff(base, target))


def align(base: bytes, target: bytes) -> list[Segment]:
    """Which part of the base each part of the target is best subtracted from.

    Shifts (base offset minus target offset) are proposed by runs that stand once in the base;
    dynamic programming then gives each piece the shift with the fewest bytes that differ, where a
    change of shift costs ``_SWITCH_COST_BYTES``.
    """
    if not target:
        return [Segment(0, None)]
    shifts = _shifts(base, target)
    pieces = [target[at : at + _PIECE_BYTES] for at in range(0, len(target), _PIECE_BYTES)]
    best: list[float] = [0.0] * (len(shifts) + 1)
    came_from: list[list[int]] = []
    for number, piece in enumerate(pieces):
        at = number * _PIECE_BYTES
        cheapest = min(range(len(best)), key=best.__getitem__)
        switched = best[cheapest] + _SWITCH_COST_BYTES
        row, costs = [], []
        for state, before in enumerate(best):
            row.append(state if before <= switched else cheapest)
            cost = float(len(piece))  # the last state: not in the base at all
            if state < len(shifts):
                offset = at + shifts[state]
                cost = float("inf")
                if offset >= 0 and offset + len(piece) <= len(base):
                    gone = subtract_bytes(piece, base[offset : offset + len(piece)])
                    cost = len(piece) - gone.count(0)
            costs.append(min(before, switched) + cost)
        came_from.append(row)
        best = costs
    state = min(range(len(best)), key=best.__getitem__)
    states = [state]
    for row in reversed(came_from[1:]):
        state = row[state]
        states.append(state)
    states.reverse()
    return _segments(states, shifts, len(target))


def _segments(states: list[int], shifts: list[int], target_bytes: int) -> list[Segment]:
    segments: list[Segment] = []
    first = 0
    for number in range(1, len(states) + 1):
        if number < len(states) and states[number] == states[first]:
            continue
        begin = first * _PIECE_BYTES
        end = min(number * _PIECE_BYTES, target_bytes)
        state = states[first]
        offset = begin + shifts[state] if state < len(shifts) else None
        segments.append(Segment(end - begin, offset))
        first = number
    return segments


def _shifts(base: bytes, target: bytes) -> list[int]:
    """Shifts that are worth a try: none, the difference in length, and what anchors vote for."""
    votes: Counter[int] = Counter()
    step = max(_ANCHOR_BYTES, len(base) // 50_000)
    anchors: dict[bytes, int] = {}
    for at in range(0, len(base) - _ANCHOR_BYTES, step):
        run = base[at : at + _ANCHOR_BYTES]
        anchors[run] = -1 if run in anchors else at
    if len(base) != len(target):
        for at in range(len(target) - _ANCHOR_BYTES):
            found = anchors.get(target[at : at + _ANCHOR_BYTES], -1)
            if found >= 0:
                votes[found - at] += 1
    voted = [shift for shift, _ in votes.most_common(_SHIFTS_MAX)]
    return list(dict.fromkeys([0, len(base) - len(target), *voted]))


def main(arguments: list[str]) -> int:
    """Make one delta: ``BASE TARGET OUT``."""
    os.nice(10)
    base, target, out = (Path(argument) for argument in arguments)
    candidate = smallest_delta(base.read_bytes(), target.read_bytes())
    write_durably(out, candidate.data)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
