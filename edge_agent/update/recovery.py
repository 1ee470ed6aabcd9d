"""At the agent's start: check every slot that the pointer names; what is damaged is not run."""

from __future__ import annotations

from typing import Any

import msgspec

from edge_agent.update.held_pointer import NO_TRIAL, HeldPointer
from edge_agent.update.pointer import NoSlot, SlotName
from edge_agent.update.slot_files import SLOT_NAMES, SlotFiles
from edge_contract.errors import ContractError

TRIAL_BOOTS_MAX = 10
"""Unannounced starts within one trial after which the slots give it up by themselves. More than
any health spec's ``restarts_max`` needs, because it counts power cuts, too; few enough that a
version that browns the board out is gone after minutes."""


class Recovery(msgspec.Struct, frozen=True):
    """What the slots found at the start; all empty where all was well.

    notes: sentences for a person.
    active_note: why another slot is active than before.
    trial_lost: why the trial was given up.
    """

    notes: tuple[str, ...] = ()
    active_note: str = ""
    trial_lost: str = ""


def recover_slots(
    pointer: HeldPointer, files: SlotFiles, last_active: str, *, announced: bool
) -> Recovery:
    """Load the pointer and correct it where what it names cannot run.

    A disk that refuses the corrected pointer stops nothing: the correction holds in memory and
    is found again at the next start.

    Args:
        pointer: not loaded yet.
        files: what lies in the slots.
        last_active: the active digest by the journal ("" if none), for a lost pointer.
        announced: the run before ended in order; other starts of a trial are counted.

    Raises:
        OSError: the disk cannot be read.
    """
    files.sweep()
    pointer.sweep()
    lost = _load(pointer, files, last_active)
    boots = "" if announced else _count_boot(pointer)
    trial = _drop_damaged_trial(pointer, files)
    active = _leave_damaged_active(pointer, files)
    fallback = _drop_damaged_fallback(pointer, files)
    notes = tuple(note for note in (lost, boots, trial, active, fallback) if note)
    return Recovery(notes, active or lost, trial or boots or lost)


def _load(pointer: HeldPointer, files: SlotFiles, last_active: str) -> str:
    lost, unread = "missing", None
    try:
        found = pointer.load()
    except ContractError as error:
        found, lost = False, f"damaged ({error.message})"
    except OSError as error:
        found, lost, unread = False, f"unreadable ({error.strerror})", error
    if found or (lost == "missing" and not last_active):
        return ""
    for name in SLOT_NAMES:
        if last_active and files.whole(name, last_active):
            pointer.correct(active=name, active_digest=last_active)
            return (
                f"{pointer.path} was {lost}; the journal says that {last_active} was"
                f" active, and slot {name} holds it whole"
            )
    if unread is not None:
        raise unread  # it may be read at the next start; without it the slots are not touched
    return f"{pointer.path} was {lost}, and no slot holds what was active: no model runs"


def _count_boot(pointer: HeldPointer) -> str:
    if not pointer.now.trial:
        return ""
    boots = pointer.now.trial_boots + 1
    if boots <= TRIAL_BOOTS_MAX:
        pointer.correct(trial_boots=boots)
        return ""
    pointer.correct(**NO_TRIAL)
    return f"{boots} unannounced starts during the trial, limit {TRIAL_BOOTS_MAX}"


def _drop_damaged_trial(pointer: HeldPointer, files: SlotFiles) -> str:
    now = pointer.now
    if not now.trial or files.whole(now.trial, now.trial_digest):
        return ""
    pointer.correct(**NO_TRIAL)
    return f"slot {now.trial} was damaged during its trial"


def _leave_damaged_active(pointer: HeldPointer, files: SlotFiles) -> str:
    now = pointer.now
    if not now.active or files.whole(now.active, now.active_digest):
        return ""
    damaged = f"active slot {now.active} ({now.active_digest}) is damaged"
    for other in ("trial", "fallback"):
        name: SlotName | NoSlot = getattr(now, other)
        digest: str = getattr(now, f"{other}_digest")
        if name and files.whole(name, digest):
            gone: dict[str, Any] = {"fallback": "", "fallback_digest": "", **NO_TRIAL}
            pointer.correct(**gone, active=name, active_digest=digest, active_latency=None)
            return f"{damaged}; fell back to slot {name} ({digest}), which is whole"
    pointer.correct(active="", active_digest="", active_latency=None)
    return f"{damaged} and there is no other: no model runs until a version is installed"


def _drop_damaged_fallback(pointer: HeldPointer, files: SlotFiles) -> str:
    now = pointer.now
    if not now.fallback or files.whole(now.fallback, now.fallback_digest):
        return ""
    pointer.correct(fallback="", fallback_digest="")
    return f"the fallback in slot {now.fallback} is damaged"
