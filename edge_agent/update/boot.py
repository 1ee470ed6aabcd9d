"""How the last run of the agent ended: a file that is there only while the agent runs."""

from __future__ import annotations

from pathlib import Path

from edge_agent.update.events import Boot
from edge_contract.layout import fsync_dir, write_durably

RUNNING_FILE = "running"


class BootMarker:
    """Marks that the agent runs, and tells how the run before ended.

    Args:
        state_dir: exists and is writable.
        kernel_boot_id: ``/proc/sys/kernel/random/boot_id``: another one means that the machine
            was started again since.
    """

    def __init__(self, state_dir: Path, kernel_boot_id: str) -> None:
        self._path = state_dir / RUNNING_FILE
        self._boot_id = kernel_boot_id

    def begin(self) -> Boot:
        """Mark the run as begun.

        Returns:
            "clean": the last run said that it ends (or there was none). "crash": it ended without
            a word while the machine ran on. "power": it was lost with the machine.
        """
        try:
            before = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            before = ""  # no run before, or a file that is damaged
        found = self._path.exists()
        try:
            write_durably(self._path, self._boot_id.encode() + b"\n")
        except OSError:
            # A full disk stops no model. At worst the next end reads as this one does.
            return "power" if found else "clean"
        if not found:
            return "clean"
        return "crash" if before == self._boot_id else "power"

    def end(self) -> None:
        """The agent ends in order: it was stopped, or the machine shuts down."""
        self._path.unlink(missing_ok=True)
        fsync_dir(self._path.parent)
