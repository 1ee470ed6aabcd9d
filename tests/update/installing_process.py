"""A real process that installs, started by ``test_sigkill.py``.

Arguments: state directory, directory with the blobs, file with the order, ``KILL_AT``.

It has the real loop (a queue), the real worker thread, hooks, journal and slots; "the fleet" is a
directory of blobs. At the ``KILL_AT``-th point it kills itself with SIGKILL: each flush of the disk
has a point just before it (odd) and one just after it (even); 0 lets it come to its end. It then
prints what it is.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import sys
import time
from pathlib import Path

import msgspec

from edge_agent.hooks import DeviceHooks
from edge_agent.update.boot import BootMarker
from edge_agent.update.events import (
    Event,
    FetchDone,
    Ordered,
    SelfTestFailed,
    SelfTestPassed,
    Switched,
)
from edge_agent.update.executor import Ports
from edge_agent.update.journal import Journal
from edge_agent.update.manager import UpdateManager
from edge_agent.update.order import Order
from edge_agent.update.slot_files import Slot
from edge_agent.update.slots import Slots
from edge_agent.update.state import Stage
from edge_agent.update.worker import Worker
from edge_contract.digest import hex_of
from edge_contract.layout import write_durably
from tests.update.bundles import HARDWARE, whole_digest


class Agent:
    """The smallest agent that can install: its ports and its loop."""

    def __init__(self, state_dir: Path, fleet: Path) -> None:
        self.inbox: queue.Queue[Event] = queue.Queue()
        self.fleet = fleet
        self.blobs = state_dir / "blobs"
        self.blobs.mkdir(exist_ok=True)
        self.running = ""
        self.reports: list[tuple[int, str]] = []
        self.slots = Slots(state_dir, HARDWARE)
        self.worker = Worker(self.inbox.put)
        ports = Ports(
            fetcher=self,
            tester=self,
            host=self,
            hooks=DeviceHooks(None, self.inbox.put),
            sink=self,
            aside=self.worker,
        )
        journal = Journal(state_dir / "update" / "journal", time.time)
        self.manager = UpdateManager(journal, self.slots, ports, time.monotonic)

    def start_fetch(self, ticket: int, order: Order) -> None:
        for source in self.fleet.glob("blobs/*"):
            if not (self.blobs / source.name).exists():
                write_durably(self.blobs / source.name, source.read_bytes())
        self.inbox.put(FetchDone(ticket))

    def cancel(self) -> None:
        return

    def blob(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def clean(self) -> None:
        shutil.rmtree(self.blobs)
        self.blobs.mkdir()

    def start_self_test(self, ticket: int, slot: Slot, order: Order) -> None:
        if whole_digest(slot.directory.parent) == slot.digest:
            self.inbox.put(SelfTestPassed(ticket))
        else:
            self.inbox.put(SelfTestFailed(ticket, "the slot is not whole"))

    def start_switch(self, ticket: int, slot: Slot | None) -> None:
        self.running = slot.digest if slot else ""
        self.inbox.put(Switched(ticket))

    def forget_others(self) -> None:
        return

    def report(self, order: Order, phase: str, reason: str) -> None:
        self.reports.append((order.seq, phase))

    def alarm(self, text: str) -> None:
        print(text, file=sys.stderr)

    def run(self, order: Order) -> None:
        """The loop, until the machine rests and nothing is left to do."""
        self.manager.handle(Ordered(order))
        until_s = time.monotonic() + 20
        while time.monotonic() < until_s:
            try:
                self.manager.handle(self.inbox.get(timeout=0.02))
            except queue.Empty:
                if self.manager.state.stage is Stage.IDLE:
                    self.worker.stop()
                    return
            for _ in range(5):
                self.manager.observe(self.running, 5.0, True)
            self.manager.tick(time.monotonic())
        raise SystemExit(f"still in {self.manager.state.stage.value}")


def kill_at(flush: int) -> None:
    """SIGKILL this very process before or after one of its flushes."""
    real, count = os.fsync, 0

    def counted(fd: int) -> None:
        nonlocal count
        count += 1
        if count == (flush + 1) // 2 and flush % 2:
            os.kill(os.getpid(), signal.SIGKILL)
        real(fd)
        if count == flush // 2 and not flush % 2:
            os.kill(os.getpid(), signal.SIGKILL)

    if flush:
        os.fsync = counted


def main() -> None:
    state_dir, fleet, order_file, flush = sys.argv[1:5]
    kill_at(int(flush))
    order = msgspec.json.decode(Path(order_file).read_bytes(), type=Order)
    boot = BootMarker(Path(state_dir), "the-same-boot").begin()
    agent = Agent(Path(state_dir), Path(fleet))
    agent.manager.start(boot)
    # What a restart finds, before it goes on: it must know what it runs.
    found = agent.manager.status()
    agent.run(order)
    status = agent.manager.status()
    BootMarker(Path(state_dir), "the-same-boot").end()
    print(
        json.dumps(
            {
                "boot": boot,
                "found": found,
                "status": status,
                "running": agent.running,
                "reports": agent.reports,
            }
        )
    )


if __name__ == "__main__":
    main()
