"""An append-only account of what was acknowledged into the spool, for an independent auditor.

One JSON object a line: ``{"boot_id", "class", "seq_a", "seq_b", "t"}``, ``t`` in unix seconds. A
line is written after the commit that it speaks of and before the caller hears of it: the ledger
never claims a record that the spool did not hold. It grows without bound; production needs none.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from edge_contract.codec import encode_json


class Ledger:
    """Appends lines and syncs them. Errors are the caller's to report."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._torn = True  # until seen otherwise: a power cut may have left half a line

    def write(self, entries: Iterable[tuple[str, str, int, int]], ts: float) -> None:
        """Append (boot_id, class, seq_a, seq_b) entries and sync.

        Raises:
            OSError: the disk refused; a torn line may be left, which the next write ends.
        """
        lines = b"".join(
            encode_json({"boot_id": boot_id, "class": cls, "seq_a": a, "seq_b": b, "t": ts}) + b"\n"
            for boot_id, cls, a, b in entries
        )
        with self._path.open("ab") as file:
            if self._torn and file.tell() > 0 and not self._ends_with_newline():
                lines = b"\n" + lines
            self._torn = True
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        self._torn = False

    def _ends_with_newline(self) -> bool:
        with self._path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) == b"\n"
