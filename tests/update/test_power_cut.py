"""A power cut at any instant leaves the old version or the new one, and the device knows which.

Journal, machine, slots and manager are the real ones, on a disk that forgets what was not flushed
(``disk.py``). Hypothesis orders, holds, restarts and cuts.
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.update.events import Boot, Ordered, Withdrawn
from edge_agent.update.journal import read_journal
from edge_agent.update.order import Order
from edge_agent.update.state import Stage
from tests.update.bundles import Version, make_version, whole_digest
from tests.update.conftest import make_dir
from tests.update.device import Clock, Device
from tests.update.disk import CuttableDisk, PowerCut

GOOD = [make_version(f"{n}.0.0") for n in range(1, 4)]
WRONG = make_version("0.1.0", "wrong")
SLOW = make_version("0.2.0", "slow")
UNLOADABLE = make_version("0.3.0", "unloadable")
VERSIONS = [*GOOD, WRONG, SLOW, UNLOADABLE]
FLEET = {version.digest: version for version in VERSIONS}
# The first version has nothing to be compared with: only the absolute limit can refuse it.
NEVER_ACTIVE = {WRONG.digest, UNLOADABLE.digest}


class Promises:
    """A device, what was ordered of it, and what must hold whenever it is up."""

    def __init__(self, base: Path, seed: int) -> None:
        self.disk = CuttableDisk(base, random.Random(seed))
        self.patch = mock.patch.object(os, "fsync", self.disk.fsync)
        self.patch.start()
        self.clock = Clock()
        self.orders: list[Order] = []
        self.has_run: set[str] = set()
        self.told_committed: Order | None = None
        self.cuts = 0
        self.holds = 0
        self.device = Device(self.disk.root, FLEET, self.clock)
        self.survive(lambda: self.device.boot())

    def close(self) -> None:
        self.patch.stop()
        self.disk.close()

    def survive(self, act: Callable[[], object]) -> bool:
        """Do it; where the power is cut meanwhile, start again. Whether it was done."""
        try:
            act()
        except PowerCut:
            self.restart("power")
            return False
        finally:
            self.remember()
        return True

    def remember(self) -> None:
        self.has_run |= set(self.device.has_run)
        for seq, phase, _ in self.device.reports:
            if phase == "committed":
                order = next(o for o in self.orders if o.seq == seq)
                if self.told_committed is None or order.seq > self.told_committed.seq:
                    self.told_committed = order

    def restart(self, boot: Boot) -> None:
        self.cuts += boot == "power"
        self.remember()
        self.device.off()
        while True:
            try:
                self.device = Device(self.disk.root, FLEET, self.clock).boot(boot)
                return
            except PowerCut:
                boot = "power"
            except OSError:
                # A disk that refuses to begin with anything; never where a version lies in a slot.
                assert not list((self.disk.root / "slots").glob("[AB]"))
                self.disk.obey()

    def order(self, version: Version, *, newer: bool = True) -> None:
        seq = len(self.orders) + 1
        if newer or not self.orders:
            self.orders.append(version.order(seq))
        order = self.orders[-1]
        self.survive(lambda: self.device.manager.handle(Ordered(order)))

    def check(self) -> None:
        device, pointer = self.device, self.device.slots.pointer
        slots = self.disk.root / "slots"
        # Old or new, never neither, never half: judged by the bytes, not by the code under test.
        for name, digest in (
            (pointer.active, pointer.active_digest),
            (pointer.trial, pointer.trial_digest),
            (pointer.fallback, pointer.fallback_digest),
        ):
            if name:
                assert whole_digest(slots / name) == digest
        ordered = {order.digest for order in self.orders}
        assert pointer.active_digest in ordered | {""}
        assert pointer.active_digest not in NEVER_ACTIVE
        assert not {WRONG.digest, UNLOADABLE.digest} & self.has_run
        # What the fleet was told to be committed stays so, until something newer takes its place.
        if self.told_committed is not None:
            newer = {o.digest for o in self.orders if o.seq >= self.told_committed.seq}
            assert pointer.active_digest in newer
        self.check_audit()
        # The device knows which: machine, pointer and status agree, as soon as it can be written.
        if device.manager.blocked:
            return
        state = device.manager.state
        active = device.manager.status()["active"]
        assert state.active == pointer.active_digest
        assert (active["digest"] if isinstance(active, dict) else "") == state.active
        if state.stage in (Stage.TRIAL, Stage.HEALTH) and state.order:
            assert pointer.trial_digest == state.order.digest
        if state.stage is Stage.IDLE:
            assert not pointer.trial

    def check_audit(self) -> None:
        entries = read_journal(self.disk.root / "update" / "journal")
        facts = [fact for entry in entries for fact in entry.facts]
        shown = {fact.digest for fact in facts if fact.what in ("trial", "active")}
        assert self.has_run <= shown, "a version ran that the audit trail does not show"
        assert not shown & NEVER_ACTIVE - {UNLOADABLE.digest}
        for version in VERSIONS:
            entered = sum(f.what == "entered" and f.digest == version.digest for f in facts)
            asked = sum(order.digest == version.digest for order in self.orders)
            # A hold stops an order before the switch; released, it goes through the stages again.
            assert entered <= asked + self.holds, "one order was installed twice"

    def settle(self) -> None:
        """Let it come to rest; then the last order has ended as it should."""
        self.disk.obey()
        if not self.survive(lambda: self.device.settle()):
            return
        state = self.device.manager.state
        assert self.device.running == state.active
        if state.ended is not None and state.ended.phase == "committed" and not state.held:
            assert state.active == state.ended.order.digest


class PowerCutMachine(RuleBasedStateMachine):
    """Orders, holds, restarts, full disks and cuts in any order."""

    @initialize(seed=st.integers(0, 2**32), first=st.booleans())
    def begin(self, seed: int, first: bool) -> None:
        self.base = make_dir()
        self.promises = Promises(self.base, seed)
        if first:
            self.promises.order(GOOD[0])
            self.promises.settle()

    def teardown(self) -> None:
        if hasattr(self, "promises"):
            self.promises.settle()
            self.promises.check()
            # Whatever happened before, the next good order is carried out.
            self.promises.device.manager.release()
            self.promises.order(GOOD[1])
            self.promises.settle()
            self.promises.check()
            assert self.promises.device.running == GOOD[1].digest
            self.promises.close()
            shutil.rmtree(self.base)

    @rule(version=st.sampled_from(VERSIONS))
    def order(self, version: Version) -> None:
        self.promises.order(version)

    @rule()
    def order_again(self) -> None:
        self.promises.order(GOOD[0], newer=False)

    @rule(steps=st.integers(1, 12))
    def go_on(self, steps: int) -> None:
        def go() -> None:
            for _ in range(steps):
                if not self.promises.device.pump():
                    self.promises.device.second()

        self.promises.survive(go)

    @rule(flushes=st.integers(1, 45))
    def cut_soon(self, flushes: int) -> None:
        self.promises.disk.arm(flushes)

    @rule(after=st.integers(0, 30), count=st.integers(1, 30))
    def full_soon(self, after: int, count: int) -> None:
        self.promises.disk.refuse(after, count)

    @rule()
    def withdraw(self) -> None:
        event = Withdrawn("the fleet took its order back")
        self.promises.survive(lambda: self.promises.device.manager.handle(event))

    @rule(flushes=st.integers(1, 45), version=st.sampled_from(VERSIONS))
    def cut_during_an_install(self, flushes: int, version: Version) -> None:
        self.promises.order(version)
        self.promises.disk.arm(flushes)
        self.promises.survive(lambda: self.promises.device.settle())

    @rule()
    def cut_now(self) -> None:
        self.promises.disk.cut()
        self.promises.restart("power")

    @rule(boot=st.sampled_from(["clean", "crash"]))
    def restart(self, boot: Boot) -> None:
        self.promises.restart(boot)

    @rule()
    def settle(self) -> None:
        self.promises.settle()

    @rule()
    def hold(self) -> None:
        self.promises.holds += 1
        self.promises.survive(lambda: self.promises.device.manager.hold())

    @rule()
    def release(self) -> None:
        self.promises.survive(lambda: self.promises.device.manager.release())

    @invariant()
    def promises_hold(self) -> None:
        if hasattr(self, "promises"):
            self.promises.check()


TestPowerCuts = PowerCutMachine.TestCase
TestPowerCuts.settings = settings(max_examples=120, stateful_step_count=20, deadline=None)


@pytest.mark.parametrize("second", [GOOD[1], WRONG, SLOW, UNLOADABLE], ids=lambda v: v.behaviour)
def test_a_cut_at_every_flush_of_an_install_leaves_old_or_new(
    tmp_path: Path, second: Version
) -> None:
    """Every flush of a second install in turn, twice with other survivors."""
    points = 0
    for seed in range(2):
        for flush in range(1, 200):
            base = tmp_path / f"{seed}-{flush}"
            base.mkdir()
            promises = Promises(base, seed * 1000 + flush)
            try:
                promises.order(GOOD[0])
                promises.settle()
                promises.disk.arm(flush)
                promises.order(second)
                promises.survive(lambda p=promises: p.device.settle())
                promises.check()
                happened = promises.cuts
                promises.settle()
                promises.check()
                expected = second if second.behaviour == "good" else GOOD[0]
                promises.order(second, newer=False)
                promises.settle()
                assert promises.device.running == expected.digest
            finally:
                promises.close()
                shutil.rmtree(base)
            if not happened:
                break
            points += 1
        else:
            pytest.fail("an install never came to its end")
    assert points > 40
