"""Sets of closed integer ranges: which sequence numbers were given out, sent, committed, dropped.

A set costs two integers a gap, so months of an unbroken sequence are one pair. Ranges that touch
are joined: {[1, 2], [3, 4]} and {[1, 4]} are the same set and have the same list form.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from enum import Enum

from edge_contract.errors import ContractError


class Overlap(Enum):
    """How a range lies to a set. The fleet stores, ignores, or refuses on it."""

    DISJOINT = "disjoint"
    """Nothing of it is in the set: new, store it."""
    CONTAINED = "contained"
    """All of it is in the set: a repeat, ignore it."""
    PARTIAL = "partial"
    """Some of it is in the set: storing it would count something twice, refuse it."""


class IntervalSet:
    """A mutable set of integers kept as sorted, disjoint closed ranges.

    Lookups take O(log n) in the number of ranges n, ``add`` O(n) at worst.
    """

    __slots__ = ("_firsts", "_lasts")

    def __init__(self, ranges: Iterable[Sequence[int]] = ()) -> None:
        """A set of the given [a, b] ranges, in any order, overlaps allowed.

        Raises:
            ContractError: a range is not two integers a <= b.
        """
        self._firsts: list[int] = []
        self._lasts: list[int] = []
        for item in ranges:
            if not isinstance(item, list | tuple) or len(item) != 2:
                raise ContractError(f"interval: expected [a, b], got {item!r:.80}")
            self.add(item[0], item[1])

    @classmethod
    def from_list(cls, ranges: Iterable[Sequence[int]]) -> IntervalSet:
        """The set that ``to_list`` (or a message) wrote down.

        Raises:
            ContractError: a range is not two integers a <= b.
        """
        return cls(ranges)

    def to_list(self) -> list[list[int]]:
        """Sorted [a, b] pairs, as they stand in JSON."""
        return [[a, b] for a, b in self]

    def add(self, first: int, last: int) -> None:
        """Add the closed range [first, last]; what overlaps or touches is joined.

        Raises:
            ContractError: not integers, or first > last.
        """
        _check(first, last)
        # Everything from `left` up to `right` touches the new range and is swallowed by it.
        left = bisect_left(self._lasts, first - 1)
        right = bisect_right(self._firsts, last + 1)
        if left < right:
            first = min(first, self._firsts[left])
            last = max(last, self._lasts[right - 1])
        self._firsts[left:right] = [first]
        self._lasts[left:right] = [last]

    def update(self, other: IntervalSet) -> None:
        """Add all of ``other``."""
        for first, last in other:
            self.add(first, last)

    def union(self, other: IntervalSet) -> IntervalSet:
        """A new set with the integers of both."""
        result = self.copy()
        result.update(other)
        return result

    def difference(self, other: IntervalSet) -> IntervalSet:
        """A new set with the integers of this set that are not in ``other``."""
        result = IntervalSet()
        for first, last in self:
            start = first
            index = bisect_left(other._lasts, first)
            while index < len(other._firsts) and other._firsts[index] <= last:
                if start < other._firsts[index]:
                    result.add(start, other._firsts[index] - 1)
                start = other._lasts[index] + 1
                index += 1
            if start <= last:
                result.add(start, last)
        return result

    def classify(self, first: int, last: int) -> Overlap:
        """How [first, last] lies to this set.

        Raises:
            ContractError: not integers, or first > last.
        """
        _check(first, last)
        index = bisect_left(self._lasts, first)
        if index == len(self._firsts) or self._firsts[index] > last:
            return Overlap.DISJOINT
        if self._firsts[index] <= first and last <= self._lasts[index]:
            return Overlap.CONTAINED
        return Overlap.PARTIAL

    def covers(self, first: int, last: int) -> bool:
        """Whether every integer of [first, last] is in the set.

        Raises:
            ContractError: not integers, or first > last.
        """
        return self.classify(first, last) is Overlap.CONTAINED

    def count(self) -> int:
        """How many integers are in the set."""
        return sum(last - first + 1 for first, last in self)

    def copy(self) -> IntervalSet:
        """An independent set with the same integers."""
        result = IntervalSet()
        result._firsts = self._firsts.copy()
        result._lasts = self._lasts.copy()
        return result

    def __contains__(self, value: int) -> bool:
        index = bisect_left(self._lasts, value)
        return index < len(self._firsts) and self._firsts[index] <= value

    def __iter__(self) -> Iterator[tuple[int, int]]:
        """The ranges (a, b), ascending."""
        return iter(zip(self._firsts, self._lasts, strict=True))

    def __bool__(self) -> bool:
        return bool(self._firsts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._firsts == other._firsts and self._lasts == other._lasts

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"IntervalSet({self.to_list()})"


def _check(first: int, last: int) -> None:
    if type(first) is not int or type(last) is not int or first > last:
        raise ContractError(
            f"interval: expected integers a <= b, got [{first!r:.40}, {last!r:.40}]"
        )
