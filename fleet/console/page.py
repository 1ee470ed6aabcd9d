"""What every page is made of, and how much of a long list a page shows."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from fleet.service import FleetService

ROWS_MAX = 200
"""Rows of one table: a table of ten thousand takes a browser a second to lay out."""

T = TypeVar("T")


@dataclass(frozen=True)
class Place:
    """Where a page is: what its path and its query say."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Page:
    """One page, ready to be rendered.

    Attributes:
        template: of the part that is live.
        title: of the document.
        section: the entry of the navigation that it belongs to.
        says: its state in one sentence; announced to screen readers whenever it changes.
        values: for the template.
        dialogs: a template beside the live part, so that nobody's typing is overwritten.
        status: of the HTTP response.
    """

    template: str
    title: str
    section: str
    says: str
    values: Mapping[str, Any]
    dialogs: str = ""
    status: int = 200


MakePage = Callable[[FleetService, Place], Page]


@dataclass(frozen=True)
class Cut:
    """The rows that a page shows out of all that match."""

    rows: Sequence[Any]
    matching_count: int
    all_count: int

    @property
    def hidden_count(self) -> int:
        """Matching rows that are not shown."""
        return self.matching_count - len(self.rows)


def cut(rows: Sequence[T], text_of: Callable[[T], str], query: str) -> Cut:
    """The first ``ROWS_MAX`` rows whose text holds every word of ``query``."""
    wanted = query.lower().split()
    found = [row for row in rows if all(word in text_of(row).lower() for word in wanted)]
    return Cut(found[:ROWS_MAX], len(found), len(rows))
