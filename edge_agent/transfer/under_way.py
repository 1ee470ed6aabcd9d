"""One blob under way: what was asked for and has not come yet, and what to ask for next."""

from __future__ import annotations

import msgspec

from edge_agent.transfer.partial import CELL_BYTES, PartialBlob
from edge_contract.messages import BlobBlock


class UnderWay(msgspec.Struct):
    """A blob and its questions. ``asked``: offset -> (bytes, when) of what has not come yet."""

    partial: PartialBlob
    asked: dict[int, tuple[int, float]] = msgspec.field(default_factory=dict)
    asked_to: int = 0
    """Everything missing below it was asked for."""
    fresh: bool = True
    """The next question replaces what the other side still keeps of earlier ones."""

    @property
    def in_flight_bytes(self) -> int:
        """Asked for and not here yet."""
        return sum(size for size, _ in self.asked.values())

    def ask_anew(self) -> None:
        """What was asked for is lost."""
        self.asked.clear()
        self.asked_to, self.fresh = 0, True

    def settle(self, block: BlobBlock, now_s: float) -> float | None:
        """Take what a block brings off what is under way; seconds since it was asked for.

        A block may be shorter or longer than the question: others may have asked for it, in theirs.
        """
        end = block.offset_bytes + len(block.data)
        came = [
            at
            for at in range(block.offset_bytes, max(end, block.offset_bytes + 1), CELL_BYTES)
            if at in self.asked and at + self.asked[at][0] <= end
        ]
        waited_s = [now_s - self.asked.pop(at)[1] for at in came]
        return waited_s[0] if waited_s else None

    def next_blocks(
        self, block_bytes: int, limit_bytes: float, now_s: float
    ) -> tuple[list[tuple[int, int]], int, int]:
        """The next question: closed ranges of missing blocks, how many bytes they are, and the
        size of a block. Marks them asked.

        Blocks begin at multiples of their size, so after the size has grown a few smaller ones
        lead up to the next multiple: nothing is asked for twice.
        """
        ranges: list[tuple[int, int]] = []
        asked_bytes = 0
        size_bytes = self.partial.size_bytes
        while asked_bytes + block_bytes <= limit_bytes:
            missing = self.partial.next_missing(self.asked_to)
            if missing is None:
                break
            if missing % block_bytes:
                if ranges:
                    break
                block_bytes = missing & -missing
            index = missing // block_bytes
            length = min(block_bytes, size_bytes - missing)
            self.asked[missing] = (length, now_s)
            self.asked_to = missing + block_bytes
            asked_bytes += max(length, 1)
            if ranges and ranges[-1][1] == index - 1:
                ranges[-1] = (ranges[-1][0], index)
            else:
                ranges.append((index, index))
        return ranges, asked_bytes, block_bytes
