"""Geometry of the small charts that the server draws as SVG.

Attributes of shapes, unlike inline styles, need no hole in the content security policy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from fleet.console.words import Look

WIDTH = 1000.0
"""Of every chart's view box; the page stretches it."""
_GAP = 4.0
_LEAST = 14.0
"""So that one device of ten thousand is still seen."""


class Segment(NamedTuple):
    """One piece of a state bar. strength: 0..1, tells neighbours of one tone apart."""

    look: Look
    number: int
    x: float
    width: float
    strength: float


def state_bar(counts: Iterable[tuple[Look, int]]) -> list[Segment]:
    """A bar of ``WIDTH`` whose segments are in proportion, but none too narrow to be seen."""
    present = [(look, number) for look, number in counts if number > 0]
    total = sum(number for _, number in present)
    room = WIDTH - _GAP * (len(present) - 1)
    wanted = [max(_LEAST, room * number / total) for _, number in present]
    scale = room / sum(wanted) if wanted else 1.0
    seen: dict[str, int] = {}
    segments = []
    x = 0.0
    for (look, number), width in zip(present, wanted, strict=True):
        rank = seen[look.tone] = seen.get(look.tone, -1) + 1
        segments.append(Segment(look, number, x, width * scale, max(0.35, 1 - 0.22 * rank)))
        x += width * scale + _GAP
    return segments


class Bin(NamedTuple):
    """One bin of two histograms: shares 0..1 and the boxes that show them (y grows downwards)."""

    label: str
    reference: float
    observed: float
    x: float
    width: float
    reference_height: float
    observed_height: float


HEIGHT = 100.0


def histogram_pair(
    labels: Sequence[str], reference: Sequence[int], observed: Sequence[int]
) -> list[Bin]:
    """Counts of the same bins as shares of their sums, scaled to the tallest bar of both."""
    shares = [
        [value / total if total else 0.0 for value in counts]
        for counts, total in ((reference, sum(reference)), (observed, sum(observed)))
    ]
    tallest = max((*shares[0], *shares[1]), default=0.0) or 1.0
    step = WIDTH / max(len(labels), 1)
    return [
        Bin(
            label=label,
            reference=ours,
            observed=theirs,
            x=index * step + step * 0.08,
            width=step * 0.84,
            reference_height=HEIGHT * ours / tallest,
            observed_height=HEIGHT * theirs / tallest,
        )
        for index, (label, ours, theirs) in enumerate(zip(labels, *shares, strict=True))
    ]


def heat(psi: float) -> int:
    """Step 0..5 of the heat map's scale; 2 and 3 begin at the usual limits .1 and .25."""
    return sum(psi >= limit for limit in (0.05, 0.1, 0.25, 0.5, 1.0))
