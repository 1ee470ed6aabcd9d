"""The pointer as the running agent holds it: what is in memory is what the disk has."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edge_agent.update.pointer import BOOT_FILE, Pointer, load_pointer, save_pointer
from edge_contract.errors import ContractError

NO_TRIAL: dict[str, Any] = {
    "trial": "",
    "trial_digest": "",
    "trial_boots": 0,
    "trial_baseline": None,
}
"""The changes that end a trial."""


class HeldPointer:
    """``boot.json`` of one state directory. Who calls it holds the slots' lock.

    Attributes:
        now: what it says; empty until ``load``.
    """

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / BOOT_FILE
        self.now = Pointer()
        self._durable = True

    def load(self) -> bool:
        """Read it; False where there is none, and then it is empty.

        Raises:
            ContractError: it is damaged, and held as empty.
            OSError: it cannot be read.
        """
        self.now = Pointer()  # also where the file is damaged
        found = load_pointer(self.path)
        self.now = found or Pointer()
        return found is not None

    def save(self, **changes: Any) -> None:
        """Replace these fields, durably.

        Raises:
            OSError: the disk refused; what is held is what it has, durable or not.
        """
        pointer = replace(self.now, **changes)
        try:
            save_pointer(self.path, pointer)
        except OSError:
            # The rename may have happened before the disk refused, and then it counts; but a power
            # cut may still take it back.
            self._durable = False
            with contextlib.suppress(ContractError, OSError):
                if load_pointer(self.path) == pointer:
                    self.now = pointer
            raise
        self.now, self._durable = pointer, True

    def make_durable(self) -> None:
        """Save what is held once more, where the disk refused before; else nothing is to do.

        Raises:
            OSError: the disk still refuses.
        """
        if not self._durable:
            self.save()

    def correct(self, **changes: Any) -> None:
        """Like ``save`` at the start, where a full disk must not keep a model from running."""
        try:
            self.save(**changes)
        except OSError:
            self.now = replace(self.now, **changes)

    def sweep(self) -> None:
        """Remove what a power cut left half written beside it."""
        for leftover in self.path.parent.glob(f".{BOOT_FILE}.*.part"):
            with contextlib.suppress(OSError):  # a disk that takes no write stops no model
                leftover.unlink()
