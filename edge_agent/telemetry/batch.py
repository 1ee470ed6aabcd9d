"""Records, and the compressed batches that the spool writes them in.

One blob a batch is what keeps flash alive: a row per record costs 9 KB of writes each.
A batch holds consecutive sequence numbers of one class and one boot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import msgspec
import zstandard

from edge_agent.telemetry.errors import SpoolError
from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import WherryError

PAYLOAD_MAX_BYTES = MESSAGE_LIMIT_BYTES
"""A record is one message."""

BATCH_MAX_RECORDS = 512
BATCH_MAX_RAW_BYTES = 64 * 1024
"""Where a batch is cut; a single record may be larger."""

MERGE_FACTOR = 4
"""Neighbours that become one in a merge. Each merge rewrites what is left, so the writes that
merging adds are 1/4 + 1/16 + ... = 1/3 of the first write at most."""

Merge = Callable[[bytes, bytes], "bytes | None"]
"""Makes one payload of an earlier and a later one; None where they must stay apart."""


class Record(NamedTuple):
    """One payload; covers several sequence numbers once merged."""

    seq_first: int
    seq_last: int
    payload: bytes


class Batch(NamedTuple):
    """Consecutive records as one compressed blob."""

    seq_first: int
    seq_last: int
    records: int
    body: bytes


class BatchDamagedError(SpoolError):
    """A blob does not hold what its row says."""


class BatchCodec:
    """Packs records with zstandard, checksummed. One owner: the contexts are not thread-safe."""

    def __init__(self) -> None:
        self._compressor = zstandard.ZstdCompressor(level=3, write_checksum=True)
        self._decompressor = zstandard.ZstdDecompressor()
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[tuple[int, int, bytes]])

    def pack(self, records: Sequence[Record]) -> list[Batch]:
        """``records`` (ascending) as batches, cut at gaps and at the size limits."""
        return [
            Batch(
                group[0].seq_first,
                group[-1].seq_last,
                len(group),
                self._compressor.compress(self._encoder.encode(group)),
            )
            for group in _groups(records)
        ]

    def unpack(self, body: bytes, seq_first: int, seq_last: int) -> list[Record]:
        """The records of a batch that covers [seq_first, seq_last].

        Raises:
            BatchDamagedError: the blob is not whole, or holds something else.
        """
        limit = BATCH_MAX_RAW_BYTES + PAYLOAD_MAX_BYTES + 32 * BATCH_MAX_RECORDS
        try:
            size = zstandard.frame_content_size(body)
            if not 0 < size <= limit:
                raise BatchDamagedError(f"batch: expected at most {limit} bytes, got {size}")
            items = self._decoder.decode(self._decompressor.decompress(body))
        except (zstandard.ZstdError, msgspec.DecodeError) as error:
            raise BatchDamagedError(f"batch {seq_first}..{seq_last}: {error}") from error
        records = [Record(*item) for item in items]
        whole = (
            bool(records)
            and records[0].seq_first == seq_first
            and records[-1].seq_last == seq_last
            and all(record.seq_first <= record.seq_last for record in records)
            and all(a.seq_last + 1 == b.seq_first for a, b in pairwise(records))
        )
        if not whole:
            raise BatchDamagedError(f"batch {seq_first}..{seq_last}: holds other records")
        return records


def merge_run(records: Sequence[Record], merge: Merge) -> list[Record]:
    """Consecutive records with up to ``MERGE_FACTOR`` neighbours made one, oldest first.

    A merge that refuses (None), fails, or grows beyond a message leaves its pair apart.
    """
    merged: list[Record] = []
    taken = MERGE_FACTOR
    for record in records:
        payload = None
        if taken < MERGE_FACTOR:
            try:
                payload = merge(merged[-1].payload, record.payload)
            except WherryError:
                payload = None  # not of the form that the class promises: it stays as it is
        if payload is None or len(payload) > PAYLOAD_MAX_BYTES:
            merged.append(record)
            taken = 1
        else:
            merged[-1] = Record(merged[-1].seq_first, record.seq_last, payload)
            taken += 1
    return merged


def _groups(records: Sequence[Record]) -> list[list[Record]]:
    groups: list[list[Record]] = []
    raw_bytes = 0
    for record in records:
        raw_bytes += len(record.payload)
        if (
            not groups
            or groups[-1][-1].seq_last + 1 != record.seq_first
            or len(groups[-1]) == BATCH_MAX_RECORDS
            or raw_bytes > BATCH_MAX_RAW_BYTES
        ):
            groups.append([])
            raw_bytes = len(record.payload)
        groups[-1].append(record)
    return groups
