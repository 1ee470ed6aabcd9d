"""What can go wrong with the spool: a caller's mistake, or the storage under it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from edge_agent.errors import AgentError


class SpoolError(AgentError):
    """The spool cannot be opened, or was called wrongly."""


class Fault(Enum):
    """What the storage did. Decides whether to wait, to shrink, or to quarantine."""

    FULL = "full"
    IO = "io"
    CORRUPT = "corrupt"
    BUSY = "busy"


class StorageError(SpoolError):
    """SQLite or the disk refused; caught inside the spool and turned into a finding."""

    def __init__(self, fault: Fault, message: str) -> None:
        super().__init__(message)
        self.fault = fault


# By text, because Python 3.10's sqlite3 gives no result code.
_FAULT_BY_TEXT: tuple[tuple[str, Fault], ...] = (
    ("disk is full", Fault.FULL),
    ("disk I/O error", Fault.IO),
    ("readonly database", Fault.IO),
    ("unable to open database file", Fault.IO),
    ("malformed", Fault.CORRUPT),
    ("not a database", Fault.CORRUPT),
    ("database is locked", Fault.BUSY),
)


@contextmanager
def storage_errors(doing: str) -> Iterator[None]:
    """Turn what SQLite says about the storage into ``StorageError``; a bug of ours passes through.

    Args:
        doing: what was tried, for the message.

    Raises:
        StorageError: the storage refused.
    """
    try:
        yield
    except sqlite3.Error as error:
        for text, fault in _FAULT_BY_TEXT:
            if text in str(error):
                raise StorageError(fault, f"{doing}: {error}") from error
        raise
