"""What the power is cut on: whole updates on a real file system, and what must hold afterwards.

Journal, machine, slots, staging and garbage collection are the agent's own; the network, the model
and the clock are simulated (``tests/update/device.py``). While the updates run every promise is
noted with the place in the disk's log at which it was given; after a cut at or behind that place
the disk must keep it.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from edge_agent.update import held_pointer
from edge_agent.update.events import Ordered
from edge_agent.update.journal import read_journal
from edge_agent.update.order import Order
from edge_agent.update.pointer import Pointer, load_pointer, save_pointer
from edge_agent.update.state import Stage
from tests.update.bundles import make_version, whole_digest
from tests.update.device import Clock, Device

OLD = make_version("1.0.0")
BAD = [make_version("0.1.0", "wrong"), make_version("0.2.0", "slow")]
GOOD = [make_version(f"{n}.0.0") for n in range(2, 6)]
FLEET = {version.digest: version for version in (OLD, *BAD, *GOOD)}


@dataclass
class Promised:
    """Promises, each as (place in the log, what)."""

    orders: list[tuple[int, Order]] = field(default_factory=list)
    journalled: list[tuple[int, int]] = field(default_factory=list)
    pointers: list[tuple[int, Pointer]] = field(default_factory=list)
    committed: list[tuple[int, int]] = field(default_factory=list)
    stages: list[tuple[int, Stage]] = field(default_factory=list)


def install_old(state_dir: Path) -> None:
    """The state of a device on which the old version runs."""
    state_dir.mkdir()
    device = Device(state_dir, FLEET, Clock()).boot()
    device.manager.handle(Ordered(OLD.order(1)))
    device.settle()
    device.off()


def run_updates(state_dir: Path, position: Callable[[], int], rng: random.Random) -> Promised:
    """Order one version after the other, good and bad ones mixed, and note what was promised."""
    promised = Promised()
    with _pointers_noted(promised, position):
        device = Device(state_dir, FLEET, Clock())
        append = device.journal.append

        def noted(event: str, state: Any, facts: Any = ()) -> None:
            append(event, state, facts)
            lines = len(read_journal(state_dir / "update" / "journal"))
            promised.journalled.append((position(), lines))
            promised.stages.append((position(), state.stage))

        device.journal.append = noted  # type: ignore[method-assign]
        device.boot("clean")
        versions = [*GOOD, *BAD]
        rng.shuffle(versions)
        for seq, version in enumerate(versions, start=2):
            order = version.order(seq)
            promised.orders.append((position(), order))
            device.manager.handle(Ordered(order))
            while device.manager.state.stage is not Stage.IDLE or device.pending:
                if not device.pump():
                    device.second()
                if "committed" in device.phases(seq) and seq not in dict(promised.committed):
                    promised.committed.append((position(), seq))
        device.off()
    return promised


@contextmanager
def _pointers_noted(promised: Promised, position: Callable[[], int]) -> Iterator[None]:
    def noted(path: Path, pointer: Pointer) -> None:
        save_pointer(path, pointer)
        promised.pointers.append((position(), pointer))

    with mock.patch.object(held_pointer, "save_pointer", noted):
        yield


def stage_at(promised: Promised, instant: int) -> Stage:
    """What the device was doing at an instant."""
    return max((s for s in promised.stages if s[0] <= instant), default=(0, Stage.IDLE))[1]


def check_after_cut(state_dir: Path, promised: Promised, instant: int) -> None:
    """The device comes up after the cut, keeps its promises, and finishes the order.

    Raises:
        AssertionError: a promise is broken.
    """
    pointer = load_pointer(state_dir / "boot.json")
    assert pointer is not None, "no pointer"
    _check_pointer(pointer, promised, instant)
    lines = len(read_journal(state_dir / "update" / "journal"))
    told_lines = max((n for place, n in promised.journalled if place <= instant), default=0)
    assert lines >= told_lines, f"the journal has {lines} entries, {told_lines} were promised"
    device = Device(state_dir, FLEET, Clock())
    try:
        device.boot("power")
        assert not device.alarms, device.alarms
        _check_up(device)
        ordered = [order for place, order in promised.orders if place <= instant]
        _check_told(device, promised, instant)
        while device.pump():
            _check_up(device)
        assert device.running, "no model runs"
        for order in ordered[-1:]:
            # As on every reconnect, the order comes again.
            device.manager.handle(Ordered(order))
        device.settle()
        _check_up(device)
        assert device.running == device.manager.state.active
        _check_end(device, ordered)
    finally:
        device.off()


def _check_pointer(pointer: Pointer, promised: Promised, instant: int) -> None:
    saved = [p for _, p in promised.pointers]
    least = sum(place <= instant for place, _ in promised.pointers)
    if least:
        kept = saved[least - 1 :]
        assert pointer in kept, f"the pointer is older than promised: {pointer}"


def _check_up(device: Device) -> None:
    """Old or new, whole, and the device knows which."""
    pointer = device.slots.pointer
    for name, digest in (
        (pointer.active, pointer.active_digest),
        (pointer.trial, pointer.trial_digest),
        (pointer.fallback, pointer.fallback_digest),
    ):
        if name:
            found = whole_digest(device.state_dir / "slots" / name)
            assert found == digest, f"slot {name} is not whole"
    state, active = device.manager.state, device.manager.status()["active"]
    assert isinstance(active, dict), "the device does not know its version"
    assert active["digest"] == state.active == pointer.active_digest
    assert FLEET[state.active].behaviour == "good", "a bad version became the active one"
    if state.stage in (Stage.TRIAL, Stage.HEALTH) and state.order:
        assert pointer.trial_digest == state.order.digest
    if state.stage is Stage.IDLE:
        assert not pointer.trial
    assert device.running in ("", pointer.active_digest, pointer.trial_digest)


def _check_told(device: Device, promised: Promised, instant: int) -> None:
    told = max((seq for place, seq in promised.committed if place <= instant), default=0)
    digest = {order.seq: order.digest for _, order in promised.orders}
    if told:
        later = {digest[seq] for seq in digest if seq >= told}
        assert device.manager.state.active in later, f"order {told} was told to be committed"


def _check_end(device: Device, ordered: list[Order]) -> None:
    wanted = [o for o in ordered if FLEET[o.digest].behaviour == "good"]
    expected = wanted[-1].digest if wanted else OLD.digest
    assert device.manager.state.active == expected, "the order did not come to its end"
    entries = read_journal(device.state_dir / "update" / "journal")
    facts = [fact for entry in entries for fact in entry.facts]
    for version in FLEET.values():
        for what in ("entered", "active"):
            times = sum((f.what, f.digest) == (what, version.digest) for f in facts)
            assert times <= 1, f"{version.version} was {what} {times} times"
