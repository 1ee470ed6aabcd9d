"""Slots A and B: one runs, the other is free to be filled. One small file says which is which.

The versions lie in ``slots/A`` and ``slots/B``, each with ``manifest.json``, ``content.json`` and
the needed files of the bundle under ``files/``. Guarantees:

- A slot directory appears under its name only when it is whole and durable.
- The active slot, the trial slot and the fallback are never written to nor removed; the fallback
  gives way only to a version that lies whole and checked beside it.
- Which slot is active changes only by replacing ``boot.json``, and only in ``commit``, or at the
  start where the active slot is found damaged.
"""

from __future__ import annotations

import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from edge_agent.errors import AgentError
from edge_agent.update.content import FILES_DIR, MANIFEST_FILE, holds, read_content, verify_content
from edge_agent.update.latency import Latency
from edge_agent.update.order import Order
from edge_agent.update.pointer import (
    BOOT_FILE,
    NoSlot,
    Pointer,
    SlotName,
    load_pointer,
    save_pointer,
)
from edge_agent.update.staging import open_version, stage_version
from edge_contract.errors import ContractError
from edge_contract.layout import fsync_dir
from edge_contract.manifest import Descriptor

TRIAL_BOOTS_MAX = 10
"""Unannounced starts within one trial after which the slots give it up by themselves. More than
any health spec's ``restarts_max`` needs, because it counts power cuts, too; few enough that a
version that browns the board out is gone after minutes."""

SLOW_CARD_BYTES_S = 2e6
"""What a worn SD card still reads, beside a camera that writes."""

_NAMES: tuple[SlotName, SlotName] = ("A", "B")


@dataclass(frozen=True)
class Slot:
    """A filled slot. ``directory`` holds the bundle's files by their paths in the bundle."""

    name: SlotName
    directory: Path
    digest: str
    line: str
    version: str


@dataclass(frozen=True)
class Recovery:
    """What the slots found at the start; all empty where all was well.

    notes: sentences for a person.
    active_note: why another slot is active than before.
    trial_lost: why the trial was given up.
    """

    notes: tuple[str, ...] = ()
    active_note: str = ""
    trial_lost: str = ""


class Slots:
    """The two slots below ``state_dir``. ``recover`` comes first.

    One thread may fill the spare slot while another reads and moves the pointer.

    Args:
        state_dir: exists and is writable.
        hardware: the device's profile id; it decides which files of a bundle are needed.
    """

    def __init__(self, state_dir: Path, hardware: str) -> None:
        self._boot_path = state_dir / BOOT_FILE
        self._root = state_dir / "slots"
        self._hardware = hardware
        self._lock = threading.RLock()
        self._pointer = Pointer()
        self._checked = ""
        self._root.mkdir(exist_ok=True)
        fsync_dir(state_dir)

    # --- what is where ---------------------------------------------------------------------------

    @property
    def pointer(self) -> Pointer:
        """What ``boot.json`` says."""
        return self._pointer

    def active(self) -> Slot | None:
        """The committed version."""
        return self._slot(self._pointer.active, self._pointer.active_digest)

    def trial(self) -> Slot | None:
        """The version that is switched in on trial."""
        return self._slot(self._pointer.trial, self._pointer.trial_digest)

    def fallback(self) -> Slot | None:
        """A version that was active before, where it is still there."""
        return self._slot(self._pointer.fallback, self._pointer.fallback_digest)

    def spare(self, digest: str) -> Slot | None:
        """The slot that is neither active nor on trial, if it says that it holds ``digest``."""
        return self._slot(self.spare_name(), digest)

    def spare_name(self) -> SlotName | NoSlot:
        """The slot that may be filled; "" while both are in use."""
        free = [n for n in _NAMES if n not in (self._pointer.active, self._pointer.trial)]
        return "" if self._pointer.trial and self._pointer.active else free[0]

    def directory(self, name: str) -> Path:
        """Where the files of a slot lie, or will lie."""
        return self._root / name / FILES_DIR

    def read_through_s(self) -> float:
        """How long ``recover`` may take to read the slots through, on a slow card."""
        files = (path for path in self._root.rglob("*") if path.is_file())
        return sum(path.stat().st_size for path in files) / SLOW_CARD_BYTES_S

    def blob(self, digest: str) -> Path | None:
        """A file in a slot that is this very blob, by its bytes: it need not be fetched again."""
        for name in _NAMES:
            try:
                content, manifest = read_content(self._root / name)
            except ContractError:
                continue
            if content.digest == digest:
                return self._root / name / MANIFEST_FILE
            for layer in manifest.layers:
                file = self._root / name / FILES_DIR / layer.path
                if layer.digest == digest and layer.path in content.paths and holds(file, layer):
                    return file
        return None

    def layers(self) -> list[Descriptor]:
        """The files in the slots as their bundles name them; their bytes are not looked at."""
        found = []
        for name in _NAMES:
            try:
                content, manifest = read_content(self._root / name)
            except ContractError:
                continue
            found += [layer for layer in manifest.layers if layer.path in content.paths]
        return found

    # --- filling the spare slot ------------------------------------------------------------------

    def stage(self, order: Order, blob: Callable[[str], Path]) -> Slot:
        """Fill the spare slot with the order's version; done already, it changes nothing.

        Args:
            order: names the manifest's digest.
            blob: where a blob lies, by its digest.

        Raises:
            ContractError: the bundle is malformed or not for this hardware.
            TrustError: a blob's bytes are not those of its digest.
            AgentError: the bundle is another one than the order names, or a trial goes on.
            OSError: no space, or a blob is missing.
        """
        name = self.spare_name()
        if not name:
            raise AgentError("both slots are in use: a trial goes on, so nothing can be staged")
        self._checked = ""
        target = self._root / name
        if self._whole(name, order.digest):
            return self._require(name, order.digest)
        stage_version(target, order, blob, self._hardware, make_room=lambda: self._make_room(name))
        return self._require(name, order.digest)

    def size_of(self, order: Order, blob: Callable[[str], Path]) -> int:
        """Bytes that the order's version takes in a slot.

        Raises:
            ContractError, TrustError, AgentError: as for ``stage``.
            OSError: a blob is missing.
        """
        return sum(layer.size for layer in open_version(order, blob, self._hardware).layers)

    def collect_garbage(self) -> None:
        """Remove what no pointer names: half-staged directories and a refused version."""
        with self._lock:
            kept = {self._pointer.active, self._pointer.trial, self._pointer.fallback}
            for entry in list(self._root.iterdir()):
                if entry.name not in kept:
                    shutil.rmtree(entry, ignore_errors=True)

    # --- moving the pointer ----------------------------------------------------------------------

    def check_spare(self, digest: str) -> None:
        """Read the spare slot through, so that ``begin_trial`` need not; on the thread that stages.

        During a trial there is none to check.

        Raises:
            ContractError, TrustError: the spare slot does not hold ``digest``, whole.
        """
        self._checked = ""
        if not self._pointer.trial:
            verify_content(self._root / self.spare_name(), digest)
            self._checked = digest

    def begin_trial(self, digest: str, baseline: Latency | None = None) -> Slot:
        """Point at the spare slot as the one on trial; done already, it changes nothing.

        Args:
            digest: what the spare slot must hold.
            baseline: of the active version, newly measured; None takes what is known.

        Raises:
            ContractError, TrustError: the spare slot does not hold ``digest``, whole.
            OSError: the disk refused; the trial has not begun.
        """
        with self._lock:
            pointer = self._pointer
            if pointer.trial:
                if pointer.trial_digest != digest:
                    raise AgentError(
                        f"expected to put {digest} on trial, but {pointer.trial_digest} is on it"
                    )
                return self._require(pointer.trial, digest)
            name = self.spare_name()
            assert name
            checked, self._checked = self._checked, ""
            if checked != digest:
                verify_content(self._root / name, digest)
            self._save(
                trial=name,
                trial_digest=digest,
                trial_boots=0,
                trial_baseline=pointer.active_latency if baseline is None else baseline,
                fallback="",
                fallback_digest="",
            )
            return self._require(name, digest)

    def commit(self, digest: str, latency: Latency | None = None) -> None:
        """Make the version on trial the active one; the old one becomes its fallback.

        Args:
            digest: must be on trial, or active already, which changes nothing.
            latency: of inference, as the trial showed it.

        Raises:
            AgentError: ``digest`` is neither on trial nor active.
            OSError: the disk refused.
        """
        with self._lock:
            pointer = self._pointer
            if pointer.trial_digest == digest:
                self._save(
                    active=pointer.trial,
                    active_digest=digest,
                    active_latency=latency,
                    fallback=pointer.active,
                    fallback_digest=pointer.active_digest,
                    **_NO_TRIAL,
                )
            elif pointer.active_digest != digest or pointer.trial:
                raise AgentError(
                    f"cannot commit {digest}: on trial is {pointer.trial_digest or 'nothing'}"
                )

    def revert(self) -> Slot | None:
        """End the trial; the active slot never changed. Without a trial it changes nothing.

        Raises:
            OSError: the disk refused.
        """
        with self._lock:
            if self._pointer.trial:
                self._save(**_NO_TRIAL)
            return self.active()

    # --- at the start ----------------------------------------------------------------------------

    def recover(self, last_active: str, *, announced: bool) -> Recovery:
        """Read the pointer and check every slot that it names; what is damaged is not run.

        A disk that refuses the corrected pointer stops nothing: the correction holds in memory and
        is found again at the next start.

        Args:
            last_active: the active digest by the journal ("" if none), for a lost pointer.
            announced: the run before ended in order; other starts of a trial are counted.

        Raises:
            OSError: the disk cannot be read.
        """
        with self._lock:
            self._sweep()
            lost = self._load(last_active)
            boots = "" if announced else self._count_boot()
            trial = self._drop_damaged_trial()
            active = self._leave_damaged_active()
            fallback = self._drop_damaged_fallback()
            notes = tuple(note for note in (lost, boots, trial, active, fallback) if note)
            return Recovery(notes, active or lost, trial or boots or lost)

    def _sweep(self) -> None:
        for entry in self._root.iterdir():
            if entry.name.startswith("."):
                shutil.rmtree(entry, ignore_errors=True)
        for leftover in self._boot_path.parent.glob(f".{BOOT_FILE}.*.part"):
            leftover.unlink(missing_ok=True)

    def _load(self, last_active: str) -> str:
        try:
            found = load_pointer(self._boot_path)
            lost = "missing"
        except ContractError as error:
            found, lost = None, f"damaged ({error.message})"
        self._pointer = found or Pointer()
        if found is not None or (lost == "missing" and not last_active):
            return ""
        for name in _NAMES:
            if last_active and self._whole(name, last_active):
                self._correct(active=name, active_digest=last_active)
                return (
                    f"{self._boot_path} was {lost}; the journal says that {last_active} was"
                    f" active, and slot {name} holds it whole"
                )
        return f"{self._boot_path} was {lost}, and no slot holds what was active: no model runs"

    def _count_boot(self) -> str:
        if not self._pointer.trial:
            return ""
        boots = self._pointer.trial_boots + 1
        if boots <= TRIAL_BOOTS_MAX:
            self._correct(trial_boots=boots)
            return ""
        self._correct(**_NO_TRIAL)
        return f"{boots} unannounced starts during the trial, limit {TRIAL_BOOTS_MAX}"

    def _drop_damaged_trial(self) -> str:
        pointer = self._pointer
        if not pointer.trial or self._whole(pointer.trial, pointer.trial_digest):
            return ""
        self._correct(**_NO_TRIAL)
        return f"slot {pointer.trial} was damaged during its trial"

    def _leave_damaged_active(self) -> str:
        pointer = self._pointer
        if not pointer.active or self._whole(pointer.active, pointer.active_digest):
            return ""
        damaged = f"active slot {pointer.active} ({pointer.active_digest}) is damaged"
        for other in ("trial", "fallback"):
            name: SlotName | NoSlot = getattr(pointer, other)
            digest: str = getattr(pointer, f"{other}_digest")
            if name and self._whole(name, digest):
                gone: dict[str, Any] = {"fallback": "", "fallback_digest": "", **_NO_TRIAL}
                self._correct(**gone, active=name, active_digest=digest, active_latency=None)
                return f"{damaged}; fell back to slot {name} ({digest}), which is whole"
        self._correct(active="", active_digest="", active_latency=None)
        return f"{damaged} and there is no other: no model runs until a version is installed"

    def _drop_damaged_fallback(self) -> str:
        pointer = self._pointer
        if not pointer.fallback or self._whole(pointer.fallback, pointer.fallback_digest):
            return ""
        self._correct(fallback="", fallback_digest="")
        return f"the fallback in slot {pointer.fallback} is damaged"

    # --- inside ----------------------------------------------------------------------------------

    def _make_room(self, name: SlotName) -> None:
        """Clear the slot's name for the staged version, its right to run first."""
        with self._lock:
            assert name not in (self._pointer.active, self._pointer.trial)
            if self._pointer.fallback == name:
                self._save(fallback="", fallback_digest="")
        old = self._root / name
        if old.exists():
            aside = self._root / f".{name}.old"
            shutil.rmtree(aside, ignore_errors=True)
            old.rename(aside)
            shutil.rmtree(aside, ignore_errors=True)

    def _save(self, **changes: Any) -> None:
        pointer = replace(self._pointer, **changes)
        try:
            save_pointer(self._boot_path, pointer)
        except OSError:
            # The rename may have happened before the disk refused: believe the disk.
            self._pointer = load_pointer(self._boot_path) or Pointer()
            raise
        self._pointer = pointer

    def _correct(self, **changes: Any) -> None:
        """Like ``_save`` at the start, where a full disk must not keep a model from running."""
        try:
            self._save(**changes)
        except OSError:
            self._pointer = replace(self._pointer, **changes)

    def _whole(self, name: SlotName | NoSlot, digest: str) -> bool:
        if not name:
            return False
        try:
            verify_content(self._root / name, digest)
        except ContractError:
            return False
        return True

    def _slot(self, name: SlotName | NoSlot, digest: str) -> Slot | None:
        if not name:
            return None
        try:
            return self._require(name, digest)
        except ContractError:
            return None

    def _require(self, name: SlotName | NoSlot, digest: str) -> Slot:
        directory = self._root / name
        content, _ = read_content(directory)
        if not name or content.digest != digest:
            raise ContractError(f"{directory}: expected {digest}, it holds {content.digest}")
        return Slot(name, directory / FILES_DIR, digest, content.line, content.version)


_NO_TRIAL: dict[str, Any] = {
    "trial": "",
    "trial_digest": "",
    "trial_boots": 0,
    "trial_baseline": None,
}
