"""Which block goes out next: one block a device in turn, no device faster than its rate.

Pure but for what it is told about time. A device that asks for much gets no more turns than one
that asks for little, so nobody starves. A block that most of a blob's listening devices wait for
goes out once, for all of them; what single devices lack after that is sent to each alone.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from edge_contract.digest import check_digest
from edge_contract.errors import ContractError
from edge_contract.messages import BlobAsk
from fleet.transfer.total_rate import TotalRate

BLOCK_BYTES_MIN = 4 * 1024
BLOCK_BYTES_MAX = 64 * 1024
_RANGES_MAX = 4096
_BLOBS_MAX = 8
"""Blobs that one device may have under way; the oldest question gives way."""
_QUESTIONS_MAX = 64
"""About one blob; a window takes four."""
BROADCAST_MIN = 3
"""Fewer devices are served one by one."""
RECENT_S = 3.0
"""A block that was sent to all so lately is on its way to whoever listened then; a device takes
it for lost, and asks anew, no sooner."""


@dataclass
class Want:
    """The blocks of one blob that one device still waits for."""

    digest: str
    size_bytes: int
    block_bytes: int
    ranges: list[tuple[int, int]]
    more: bool = False
    listening: bool = False

    def take(self) -> int:
        """The next block's number; it is no longer wanted."""
        first, last = self.ranges[0]
        if first == last:
            self.ranges.pop(0)
        else:
            self.ranges[0] = (first + 1, last)
        return first

    def holds(self, index: int) -> bool:
        """Whether this block is wanted."""
        at = self._at(index)
        return at >= 0 and index <= self.ranges[at][1]

    def drop(self, index: int) -> None:
        """This block is no longer wanted."""
        if self.holds(index):
            at = self._at(index)
            first, last = self.ranges[at]
            around = [(first, index - 1), (index + 1, last)]
            self.ranges[at : at + 1] = [pair for pair in around if pair[0] <= pair[1]]

    def drop_all(self, indexes: Iterable[int]) -> None:
        """None of these blocks is wanted any longer. In one go, however many ranges there are."""
        gone = sorted(indexes)
        left: list[tuple[int, int]] = []
        at = 0
        for first, last in self.ranges:
            while at < len(gone) and gone[at] <= last:
                if first < gone[at]:
                    left.append((first, gone[at] - 1))
                first = max(first, gone[at] + 1)
                at += 1
            if first <= last:
                left.append((first, last))
        self.ranges = left

    def _at(self, index: int) -> int:
        """The last range that begins at or before a block; ranges rise. -1: there is none."""
        return bisect_right(self.ranges, index, key=lambda pair: pair[0]) - 1


@dataclass(frozen=True)
class Block:
    """One block to send: ``length_bytes`` of the blob from ``offset_bytes``. ``device`` is ""
    where it goes to all that listen; ``shared_count`` of them wait for it."""

    device: str
    digest: str
    index: int
    offset_bytes: int
    length_bytes: int
    size_bytes: int
    shared_count: int = 1


@dataclass
class _Line:
    """One device: its questions by digest, and its allowance (a token bucket)."""

    wants: OrderedDict[str, list[Want]] = field(default_factory=OrderedDict)
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
    return Want(ask.digest, size_bytes, ask.block_bytes, list(ask.missing), ask.more, ask.listening)


class FairQueue:
    """Questions of many devices, served block by block in turn.

    Args:
        rate_bytes_s: what one device gets at most, over ``burst_bytes``.
        burst_bytes: what it may get at once after a rest.
        total: what all devices get together at most; None for no limit.
    """

    def __init__(
        self, *, rate_bytes_s: float, burst_bytes: float, total: TotalRate | None = None
    ) -> None:
        if burst_bytes < BLOCK_BYTES_MAX or rate_bytes_s <= 0:
            raise ContractError(
                f"expected a rate above 0 and a burst of at least {BLOCK_BYTES_MAX} bytes, got"
                f" {rate_bytes_s} and {burst_bytes}"
            )
        self._rate_bytes_s = rate_bytes_s
        self._burst_bytes = burst_bytes
        self._total = total or TotalRate(0.0)
        self._not_before_s = 0.0
        self._untaken_bytes = 0
        self._lines: OrderedDict[str, _Line] = OrderedDict()
        self._resting: dict[str, _Line] = {}
        self.served_bytes: Counter[str] = Counter()
        """Sent to each device, alone or with others."""
        self._listeners: dict[str, set[str]] = {}
        """Digest -> devices that wait for blocks of it and hear its broadcast."""
        self._since_s: dict[tuple[str, str], float] = {}
        """(device, digest) -> when it began to listen."""
        self._shared_at_s: dict[str, dict[tuple[int, int], float]] = {}
        """Digest -> (block number, block size) -> when it was sent to all, the oldest first; no
        older than ``RECENT_S`` before the newest."""

    def ask(self, device: str, want: Want, now_s: float) -> None:
        """Take a question; it replaces earlier ones about the same blob unless it is for more."""
        line = self._lines.get(device)
        if line is None:
            line = self._resting.pop(device, None) or _Line(allowance_bytes=self._burst_bytes)
            line.updated_s = line.updated_s or now_s
            self._lines[device] = line
        if want.listening:
            self._drop_recent(device, want, now_s)
        earlier = line.wants.pop(want.digest, []) if want.more else []
        self._unlisten(device, line.wants.pop(want.digest, []))
        questions = [*earlier, want][-_QUESTIONS_MAX:] if want.ranges else earlier
        if questions:
            line.wants[want.digest] = questions
            if want.listening:
                self._listeners.setdefault(want.digest, set()).add(device)
        while len(line.wants) > _BLOBS_MAX:
            self._unlisten(device, line.wants.popitem(last=False)[1])
        if not line.wants:
            self._rest(device)

    def next(self, now_s: float) -> Block | None:
        """The block to send now; None when there is none or every device is over its rate."""
        if now_s < self._not_before_s:
            return None
        for device in list(self._lines):
            line = self._lines[device]
            self._grant(line, now_s, self._rate_bytes_s)
            want = next(iter(line.wants.values()))[0]
            if line.allowance_bytes < want.block_bytes:
                continue
            index = want.take()
            offset = index * want.block_bytes
            length = max(0, min(want.block_bytes, want.size_bytes - offset))
            shared = self._share(device, want, index, length) if want.listening else 1
            if shared > 1:
                self._remember(want.digest, (index, want.block_bytes), now_s)
            self._take(length, now_s)
            self._charge(device, want.digest, length)
            if device in self._lines:
                self._lines.move_to_end(device)
            to = device if shared == 1 else ""
            return Block(to, want.digest, index, offset, length, want.size_bytes, shared)
        return None

    def _take(self, length_bytes: int, now_s: float) -> None:
        """Of what all may have: as much at a time as HTTP takes, or small blocks would get less."""
        self._untaken_bytes += length_bytes
        if self._untaken_bytes >= BLOCK_BYTES_MAX:
            self._not_before_s = now_s + self._total.take(self._untaken_bytes, now_s)
            self._untaken_bytes = 0

    def forget(self, device: str) -> None:
        """Drop a device's questions: it is gone and will ask again."""
        line = self._lines.pop(device, None)
        for questions in line.wants.values() if line else ():
            self._unlisten(device, questions)
        self._resting.pop(device, None)
        self.served_bytes.pop(device, None)
        self._since_s = {key: at_s for key, at_s in self._since_s.items() if key[0] != device}

    def clear(self) -> None:
        """Drop everything: the connection is gone."""
        self._lines.clear()
        self._resting.clear()
        self._listeners.clear()
        self._since_s.clear()
        self._shared_at_s.clear()

    def __bool__(self) -> bool:
        return bool(self._lines)

    def _drop_recent(self, device: str, want: Want, now_s: float) -> None:
        """Take out of a question for more what is on its way to this device already."""
        key = (device, want.digest)
        if not want.more:
            self._since_s[key] = now_s
            return
        after_s = max(self._since_s.setdefault(key, now_s), now_s - RECENT_S)
        # By what was sent, not by what is asked for: a question for a million blocks is cheap.
        sent = self._shared_at_s.get(want.digest, {})
        want.drop_all(
            index
            for (index, block_bytes), at_s in sent.items()
            if block_bytes == want.block_bytes and at_s >= after_s
        )

    def _remember(self, digest: str, block: tuple[int, int], now_s: float) -> None:
        """A block was sent to all."""
        sent = self._shared_at_s.setdefault(digest, {})
        sent.pop(block, None)
        sent[block] = now_s
        while next(iter(sent.values())) < now_s - RECENT_S:
            del sent[next(iter(sent))]

    def _share(self, device: str, want: Want, index: int, length_bytes: int) -> int:
        """Take the block from all that wait for it; how many devices that are, this one among them.

        1 where they are not the most of those that listen: then it is a repair of single ones.
        """
        listeners = self._listeners.get(want.digest, set())
        if len(listeners) < BROADCAST_MIN:
            return 1
        same = []
        for other in listeners - {device}:
            for question in self._lines[other].wants[want.digest]:
                if question.block_bytes == want.block_bytes and question.holds(index):
                    same.append((other, question))
                    break
        count = len(same) + 1
        if count < BROADCAST_MIN or 2 * count < len(listeners):
            return 1
        for other, question in same:
            question.drop(index)
            self._charge(other, want.digest, length_bytes)
        return count

    def _charge(self, device: str, digest: str, length_bytes: int) -> None:
        """Count what was sent, and let go of questions that are answered."""
        line = self._lines[device]
        line.allowance_bytes -= length_bytes
        self.served_bytes[device] += length_bytes
        questions = line.wants[digest]
        left = [question for question in questions if question.ranges]
        if left:
            line.wants[digest] = left
            return
        self._unlisten(device, questions)
        del line.wants[digest]
        if not line.wants:
            self._rest(device)

    def _unlisten(self, device: str, questions: list[Want]) -> None:
        for question in questions[:1]:
            listeners = self._listeners.get(question.digest)
            if listeners is not None:
                listeners.discard(device)
                if not listeners:
                    del self._listeners[question.digest]

    def _rest(self, device: str) -> None:
        # Kept with its allowance, or asking in small pieces would go around the rate.
        self._resting[device] = self._lines.pop(device)

    def _grant(self, line: _Line, now_s: float, rate_bytes_s: float) -> None:
        earned = max(0.0, now_s - line.updated_s) * rate_bytes_s
        line.allowance_bytes = min(self._burst_bytes, line.allowance_bytes + earned)
        line.updated_s = now_s
