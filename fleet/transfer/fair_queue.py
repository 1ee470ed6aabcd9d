"""Which block goes out next: one block a device in turn, no device faster than its rate.

Pure but for what it is told about time. A device that asks for much gets no more turns than one
that asks for little, so nobody starves; a device that asks again replaces its question, so what
it repeats is not sent twice.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field

from edge_contract.digest import check_digest
from edge_contract.errors import ContractError
from edge_contract.messages import BlobAsk

BLOCK_BYTES_MIN = 4 * 1024
BLOCK_BYTES_MAX = 64 * 1024
_RANGES_MAX = 4096
_BLOBS_MAX = 4
"""Blobs that one device may have under way; the oldest question gives way."""


@dataclass
class Want:
    """The blocks of one blob that one device still waits for."""

    digest: str
    size_bytes: int
    block_bytes: int
    ranges: list[tuple[int, int]]

    def take(self) -> int:
        """The next block's number; it is no longer wanted."""
        first, last = self.ranges[0]
        if first == last:
            self.ranges.pop(0)
        else:
            self.ranges[0] = (first + 1, last)
        return first


@dataclass(frozen=True)
class Block:
    """One block to send: ``length_bytes`` of the blob from ``offset_bytes``."""

    device: str
    digest: str
    index: int
    offset_bytes: int
    length_bytes: int
    size_bytes: int


@dataclass
class _Line:
    """One device: its questions by digest, and its allowance (a token bucket)."""

    wants: OrderedDict[str, Want] = field(default_factory=OrderedDict)
    allowance_bytes: float = 0.0
    updated_s: float = 0.0


def check_ask(ask: BlobAsk, size_bytes: int) -> Want:
    """What a question comes to, for a blob of ``size_bytes``.

    Raises:
        ContractError: not a digest, a block size out of bounds, or ranges outside the blob.
    """
    check_digest(ask.digest, where="blob/ask")
    if not BLOCK_BYTES_MIN <= ask.block_bytes <= BLOCK_BYTES_MAX:
        raise ContractError(
            f"blob/ask: block_bytes {ask.block_bytes}, expected {BLOCK_BYTES_MIN} to"
            f" {BLOCK_BYTES_MAX}"
        )
    if len(ask.missing) > _RANGES_MAX:
        raise ContractError(
            f"blob/ask: {len(ask.missing)} ranges, at most {_RANGES_MAX} in one question"
        )
    # An empty blob is one empty block: something has to come for the device to be done.
    blocks = max(1, -(-size_bytes // ask.block_bytes))
    after = -1
    for first, last in ask.missing:
        if not after < first <= last < blocks:
            raise ContractError(
                f"blob/ask: expected rising ranges of blocks 0 to {blocks - 1}, got"
                f" [{first}, {last}] after {after}"
            )
        after = last
    return Want(ask.digest, size_bytes, ask.block_bytes, list(ask.missing))


class FairQueue:
    """Questions of many devices, served block by block in turn.

    Args:
        rate_bytes_s: what one device gets at most, over ``burst_bytes``.
        burst_bytes: what it may get at once after a rest.
    """

    def __init__(self, *, rate_bytes_s: float, burst_bytes: float) -> None:
        if burst_bytes < BLOCK_BYTES_MAX or rate_bytes_s <= 0:
            raise ContractError(
                f"expected a rate above 0 and a burst of at least {BLOCK_BYTES_MAX} bytes, got"
                f" {rate_bytes_s} and {burst_bytes}"
            )
        self._rate_bytes_s = rate_bytes_s
        self._burst_bytes = burst_bytes
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._resting: dict[str, _Line] = {}

    def ask(self, device: str, want: Want, now_s: float) -> None:
        """Take a question; it replaces an earlier one about the same blob."""
        line = self._lines.get(device)
        if line is None:
            line = self._resting.pop(device, None) or _Line(allowance_bytes=self._burst_bytes)
            line.updated_s = line.updated_s or now_s
            self._lines[device] = line
        line.wants.pop(want.digest, None)
        if want.ranges:
            line.wants[want.digest] = want
        while len(line.wants) > _BLOBS_MAX:
            line.wants.popitem(last=False)
        if not line.wants:
            self._rest(device)

    def next(self, now_s: float) -> Block | None:
        """The block to send now; None when there is none or every device is over its rate."""
        for device in list(self._lines):
            line = self._lines[device]
            self._grant(line, now_s)
            want = next(iter(line.wants.values()))
            if line.allowance_bytes < want.block_bytes:
                continue
            index = want.take()
            offset = index * want.block_bytes
            length = max(0, min(want.block_bytes, want.size_bytes - offset))
            line.allowance_bytes -= length
            if not want.ranges:
                del line.wants[want.digest]
            if line.wants:
                self._lines.move_to_end(device)
            else:
                self._rest(device)
            return Block(device, want.digest, index, offset, length, want.size_bytes)
        return None

    def forget(self, device: str) -> None:
        """Drop a device's questions: it is gone and will ask again."""
        self._lines.pop(device, None)
        self._resting.pop(device, None)

    def clear(self) -> None:
        """Drop everything: the connection is gone."""
        self._lines.clear()
        self._resting.clear()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def _rest(self, device: str) -> None:
        # Kept with its allowance, or asking in small pieces would go around the rate.
        self._resting[device] = self._lines.pop(device)

    def _grant(self, line: _Line, now_s: float) -> None:
        earned = max(0.0, now_s - line.updated_s) * self._rate_bytes_s
        line.allowance_bytes = min(self._burst_bytes, line.allowance_bytes + earned)
        line.updated_s = now_s
