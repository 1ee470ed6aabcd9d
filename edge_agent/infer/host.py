"""Loads versions aside, tests them, and lets one of them answer frames.

All of it happens on the update's worker thread, in the order of the calls, so that a self-test, the
switch that follows it and the release of the old version cannot overtake one another. Frames go on
being answered by the version before.
"""

from __future__ import annotations

import time
import weakref

from edge_agent.infer.engine import InferenceEngine
from edge_agent.infer.model import LoadedModel, load_model
from edge_agent.memory import give_back
from edge_agent.update.events import (
    Event,
    SelfTestFailed,
    SelfTestPassed,
    Switched,
    SwitchFailed,
)
from edge_agent.update.order import Order
from edge_agent.update.ports import Aside
from edge_agent.update.slot_files import Slot
from edge_contract.errors import WherryError

LAST_FRAME_S = 5.0
"""How long the frame in hand may take before memory is given back without its version's share."""
_LOOK_S = 0.05


class Host:
    """The update's ``ModelHost`` and ``SelfTester``.

    Args:
        engine: whose model reference is swapped.
        aside: runs the slow work.
        hardware: this device's profile id.
        threads: intra-op threads of a session.
    """

    def __init__(
        self, engine: InferenceEngine, aside: Aside, *, hardware: str, threads: int
    ) -> None:
        self._engine = engine
        self._aside = aside
        self._hardware = hardware
        self._threads = threads
        self._loaded: dict[str, LoadedModel] = {}
        self._candidate = ""
        """Digest of the version that passed its self-test last: the one that goes on trial."""

    def start_self_test(self, ticket: int, slot: Slot, order: Order) -> None:
        """Load the slot aside and run its golden vectors; the loaded version is kept."""
        self._aside.start(lambda: self._self_test(ticket, slot))

    def start_switch(self, ticket: int, slot: Slot | None) -> None:
        """Let the version in ``slot`` answer the next frame; None: no version."""
        self._aside.start(lambda: self._switch(ticket, slot))

    def forget_others(self) -> None:
        """Free every loaded version but the one that answers."""
        self._aside.start(self._forget)

    def _self_test(self, ticket: int, slot: Slot) -> Event:
        try:
            # From the files, also where the digest is in memory: the files are what is tested.
            model = self._load(slot)
            result = model.self_test()
        except WherryError as error:
            return SelfTestFailed(ticket, _said(error))
        if not result.passed:
            return SelfTestFailed(ticket, result.sentence())
        self._loaded[slot.digest] = model
        self._candidate = slot.digest
        return SelfTestPassed(ticket)

    def _switch(self, ticket: int, slot: Slot | None) -> Event:
        if slot is None:
            self._engine.swap(None)
            return Switched(ticket)
        try:
            model = self._loaded.get(slot.digest) or self._load(slot)
        except WherryError as error:
            return SwitchFailed(ticket, _said(error))
        self._loaded[slot.digest] = model
        before = self._engine.model
        on_trial = slot.digest == self._candidate
        self._engine.swap(model, control=before if on_trial else None)
        return Switched(ticket)

    def _forget(self) -> None:
        model = self._engine.model
        self._candidate = ""
        self._engine.swap(model)
        others = [weakref.ref(other) for other in self._loaded.values() if other is not model]
        self._loaded = {model.digest: model} if model else {}
        # A frame that is being answered still holds the version that was swapped out; pages that
        # are given back before it is freed would stay with this process until the next update.
        turns = int(LAST_FRAME_S / _LOOK_S)
        while turns and any(other() is not None for other in others):
            time.sleep(_LOOK_S)
            turns -= 1
        give_back()

    def _load(self, slot: Slot) -> LoadedModel:
        try:
            return load_model(slot.directory, slot.digest, slot.name, self._hardware, self._threads)
        finally:
            # A runtime's loader frees about as much as it keeps.
            give_back()


def _said(error: WherryError) -> str:
    """The message with what to do next: a missing runtime is one of the reasons."""
    return f"{error.message}; {error.hint}" if error.hint else error.message
