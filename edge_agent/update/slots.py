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

import threading
from collections.abc import Callable
from pathlib import Path

from edge_agent.errors import AgentError
from edge_agent.update.content import verify_content
from edge_agent.update.held_pointer import NO_TRIAL, HeldPointer
from edge_agent.update.latency import Latency
from edge_agent.update.order import Order
from edge_agent.update.pointer import NoSlot, Pointer, SlotName
from edge_agent.update.recovery import Recovery, recover_slots
from edge_agent.update.slot_files import SLOT_NAMES, Slot, SlotFiles
from edge_agent.update.staging import open_version, stage_version
from edge_contract.manifest import Descriptor

SLOW_CARD_BYTES_S = 2e6
"""What a worn SD card still reads, beside a camera that writes."""


class Slots:
    """The two slots below ``state_dir``. ``recover`` comes first.

    One thread may fill the spare slot while another reads and moves the pointer.

    Args:
        state_dir: exists and is writable.
        hardware: the device's profile id; it decides which files of a bundle are needed.
    """

    def __init__(self, state_dir: Path, hardware: str) -> None:
        self._hardware = hardware
        self._lock = threading.RLock()
        self._held = HeldPointer(state_dir)
        self._files = SlotFiles(state_dir)
        self._checked = ""

    # --- what is where ---------------------------------------------------------------------------

    @property
    def pointer(self) -> Pointer:
        """What ``boot.json`` says."""
        return self._held.now

    def active(self) -> Slot | None:
        """The committed version."""
        return self._files.slot(self.pointer.active, self.pointer.active_digest)

    def trial(self) -> Slot | None:
        """The version that is switched in on trial."""
        return self._files.slot(self.pointer.trial, self.pointer.trial_digest)

    def fallback(self) -> Slot | None:
        """A version that was active before, where it is still there."""
        return self._files.slot(self.pointer.fallback, self.pointer.fallback_digest)

    def spare(self, digest: str) -> Slot | None:
        """The slot that is neither active nor on trial, if it says that it holds ``digest``."""
        return self._files.slot(self.spare_name(), digest)

    def spare_name(self) -> SlotName | NoSlot:
        """The slot that may be filled; "" while both are in use."""
        pointer = self.pointer
        free = [n for n in SLOT_NAMES if n not in (pointer.active, pointer.trial)]
        return "" if pointer.trial and pointer.active else free[0]

    def directory(self, name: str) -> Path:
        """Where the files of a slot lie, or will lie."""
        return self._files.directory(name)

    def read_through_s(self) -> float:
        """How long ``recover`` may take to read the slots through, on a slow card."""
        return self._files.size_bytes() / SLOW_CARD_BYTES_S

    def blob(self, digest: str) -> Path | None:
        """A file in a slot that is this very blob, by its bytes: it need not be fetched again."""
        return self._files.blob(digest)

    def layers(self) -> list[Descriptor]:
        """The files in the slots as their bundles name them; their bytes are not looked at."""
        return self._files.layers()

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
        target = self._files.path(name)
        if self._files.whole(name, order.digest):
            return self._files.require(name, order.digest)
        stage_version(target, order, blob, self._hardware, make_room=lambda: self._make_room(name))
        return self._files.require(name, order.digest)

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
            kept = {self.pointer.active, self.pointer.trial, self.pointer.fallback}
            self._files.keep_only(kept)

    # --- moving the pointer ----------------------------------------------------------------------

    def check_spare(self, digest: str) -> None:
        """Read the spare slot through, so that ``begin_trial`` need not; on the thread that stages.

        During a trial there is none to check.

        Raises:
            ContractError, TrustError: the spare slot does not hold ``digest``, whole.
        """
        self._checked = ""
        if not self.pointer.trial:
            verify_content(self._files.path(self.spare_name()), digest)
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
            pointer = self.pointer
            if pointer.trial:
                if pointer.trial_digest != digest:
                    raise AgentError(
                        f"expected to put {digest} on trial, but {pointer.trial_digest} is on it"
                    )
                self._held.make_durable()
                return self._files.require(pointer.trial, digest)
            name = self.spare_name()
            assert name
            checked, self._checked = self._checked, ""
            if checked != digest:
                verify_content(self._files.path(name), digest)
            self._held.save(
                trial=name,
                trial_digest=digest,
                trial_boots=0,
                trial_baseline=pointer.active_latency if baseline is None else baseline,
                fallback="",
                fallback_digest="",
            )
            return self._files.require(name, digest)

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
            pointer = self.pointer
            if pointer.trial_digest == digest:
                self._held.save(
                    active=pointer.trial,
                    active_digest=digest,
                    active_latency=latency,
                    fallback=pointer.active,
                    fallback_digest=pointer.active_digest,
                    **NO_TRIAL,
                )
            elif pointer.active_digest != digest or pointer.trial:
                raise AgentError(
                    f"cannot commit {digest}: on trial is {pointer.trial_digest or 'nothing'}"
                )
            else:
                self._held.make_durable()

    def revert(self) -> Slot | None:
        """End the trial; the active slot never changed. Without a trial it changes nothing.

        Raises:
            OSError: the disk refused.
        """
        with self._lock:
            if self.pointer.trial:
                self._held.save(**NO_TRIAL)
            self._held.make_durable()
            return self.active()

    # --- at the start ----------------------------------------------------------------------------

    def recover(self, last_active: str, *, announced: bool) -> Recovery:
        """Read the pointer and check every slot that it names; what is damaged is not run.

        Args:
            last_active: the active digest by the journal ("" if none), for a lost pointer.
            announced: the run before ended in order; other starts of a trial are counted.

        Raises:
            OSError: the disk cannot be read.
        """
        with self._lock:
            return recover_slots(self._held, self._files, last_active, announced=announced)

    # --- inside ----------------------------------------------------------------------------------

    def _make_room(self, name: SlotName) -> None:
        """Clear the slot's name for the staged version, its right to run first."""
        with self._lock:
            assert name not in (self.pointer.active, self.pointer.trial)
            if self.pointer.fallback == name:
                self._held.save(fallback="", fallback_digest="")
        self._files.clear(name)
