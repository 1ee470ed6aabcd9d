"""``boot.json``: the one small file that says which slot is active and which is on trial."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from edge_agent.update.latency import Latency
from edge_contract.codec import decode_json, encode_json
from edge_contract.errors import ContractError
from edge_contract.layout import write_durably

SlotName = Literal["A", "B"]
NoSlot = Literal[""]
BOOT_FILE = "boot.json"


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """Which slot is what. Digests stand beside names, so a slot that was changed is noticed.

    active: the committed slot ("" before the first commit).
    active_latency: of inference, as the active version showed it in its own trial (None if
        unknown): what the next one is compared with until newer frames are there.
    trial: the slot that is switched in on trial; ``active`` is still the old one.
    trial_boots: starts of the agent during this trial that nobody announced.
    trial_baseline: of inference on the version before, when the trial began.
    fallback: the other slot, where it holds a version that was active once.
    """

    schema: Literal[1] = 1
    active: SlotName | NoSlot = ""
    active_digest: str = ""
    active_latency: Latency | None = None
    trial: SlotName | NoSlot = ""
    trial_digest: str = ""
    trial_boots: int = 0
    trial_baseline: Latency | None = None
    fallback: SlotName | NoSlot = ""
    fallback_digest: str = ""

    def __post_init__(self) -> None:
        for name in ("active", "trial", "fallback"):
            if bool(getattr(self, name)) != bool(getattr(self, f"{name}_digest")):
                raise ContractError(f"{BOOT_FILE}: {name} and {name}_digest must come together")
        if self.trial and self.trial == self.active:
            raise ContractError(f"{BOOT_FILE}: slot {self.trial} is both active and on trial")


def load_pointer(path: Path) -> Pointer | None:
    """The pointer on disk, or None where there is none yet.

    Raises:
        ContractError: it is damaged.
        OSError: it cannot be read.
    """
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return None
    return decode_json(data, Pointer, what=str(path))


def save_pointer(path: Path, pointer: Pointer) -> None:
    """Replace the pointer durably: after a cut it is the old one or this one.

    Raises:
        OSError: the disk refused; which of the two is there must be read again.
    """
    write_durably(path, encode_json(pointer))
