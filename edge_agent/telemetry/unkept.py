"""Where the spool lies while the state directory takes no write: in memory, lost with the agent."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

CAP_BYTES = 4_000_000
"""It is memory that it takes: an hour or two of a device's telemetry."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - the directory below it is made for this process alone


class UnkeptSpool:
    """A directory of this process in memory, removed with it.

    Raises:
        OSError: there is neither memory nor a temporary directory to write to.
    """

    def __init__(self) -> None:
        memory = _MEMORY if os.access(_MEMORY, os.W_OK | os.X_OK) else None
        self._directory = tempfile.TemporaryDirectory(prefix="wherry-spool-", dir=memory)
        self.path = Path(self._directory.name)
