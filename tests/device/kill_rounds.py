"""Kills a real process that installs, at every step of its journal, round after round.

Arguments: scratch directory, rounds, seed. Each round takes a device on which the old version runs,
starts the installing process of ``tests/update/installing_process.py`` (real loop, worker thread,
journal, slots), kills it with SIGKILL, sometimes kills the restart as well, checks what lies on the
disk, and lets a last start finish. One forked process each, so 500 rounds take minutes, not hours.
Prints one line of JSON with the counts; a broken promise ends it with its sentence.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec

from edge_agent.update.boot import BootMarker
from edge_agent.update.journal import Journal, read_journal
from edge_agent.update.order import Order
from edge_agent.update.state import UpdateState
from edge_contract.digest import hex_of
from tests.update.installing_process import Agent
from tests.update.test_sigkill import NEW, OLD, QUICK, check_dead, check_restarted

PLACES = ("before it is written", "written, not flushed", "flushed", "a moment later")
"""Where a kill meets a journal step. "a moment later" is while its effects are carried out."""
MOMENT_S = 0.004


def die() -> None:
    """No handler, no cleanup, no flush."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_step(step: int, place: str, moment_s: float) -> None:
    """SIGKILL this process at its ``step``-th journal entry (counted from 1)."""
    append, fsync, count = Journal.append, os.fsync, 0

    def counted(journal: Journal, event: str, state: UpdateState, facts: object = ()) -> None:
        nonlocal count
        count += 1
        if count == step and place == PLACES[0]:
            die()
        append(journal, event, state, facts)  # type: ignore[arg-type]
        if count == step and place == PLACES[2]:
            die()
        if count == step and place == PLACES[3]:
            threading.Thread(target=lambda: (time.sleep(moment_s), die()), daemon=True).start()

    def flushed(fd: int) -> None:
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if count == step and place == PLACES[1] and name == "journal":
            die()
        fsync(fd)

    Journal.append = counted  # type: ignore[method-assign,assignment]
    os.fsync = flushed


class Rounds:
    """Args:
    base: an empty directory.
    seed: of what is drawn.
    """

    def __init__(self, base: Path, seed: int) -> None:
        self.base = base
        self.rng = random.Random(seed)
        self.template = base / "template"
        self.template.mkdir()
        for version in (OLD, NEW):
            blobs = base / version.version / "blobs"
            blobs.mkdir(parents=True)
            for digest, data in version.blobs.items():
                (blobs / hex_of(digest)).write_bytes(data)
        self.install(self.template, OLD.order(1, health=QUICK), base / OLD.version, lambda: None)

    def count_steps(self) -> int:
        """Journal entries of one whole install that nobody disturbs."""
        state_dir = self.fresh()
        journal = state_dir / "update" / "journal"
        before = read_journal(journal)[-1].n
        self.finish(state_dir)
        return read_journal(journal)[-1].n - before

    def fresh(self) -> Path:
        state_dir = self.base / "state"
        shutil.rmtree(state_dir, ignore_errors=True)
        shutil.copytree(self.template, state_dir)
        return state_dir

    def install(
        self, state_dir: Path, order: Order, fleet: Path, arm: Callable[[], None]
    ) -> dict[str, object]:
        """One process; what it is in the end, or {} where it was killed."""
        result = self.base / "result.json"
        result.unlink(missing_ok=True)
        child = os.fork()
        if child == 0:
            code = 1
            try:
                arm()
                boot = BootMarker(state_dir, "the-same-boot").begin()
                agent = Agent(state_dir, fleet)
                agent.manager.start(boot)
                found = agent.manager.status()
                agent.run(order)
                status = agent.manager.status()
                BootMarker(state_dir, "the-same-boot").end()
                told = {"boot": boot, "found": found, "status": status, "running": agent.running}
                result.write_bytes(msgspec.json.encode(told))
                code = 0
            finally:
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        if os.WIFSIGNALED(status):
            assert os.WTERMSIG(status) == signal.SIGKILL
            return {}
        assert os.waitstatus_to_exitcode(status) == 0, "the installing process failed"
        told: dict[str, object] = json.loads(result.read_bytes())
        return told

    def finish(self, state_dir: Path) -> dict[str, object]:
        order = NEW.order(2, health=QUICK)
        return self.install(state_dir, order, self.base / NEW.version, lambda: None)

    def kill(self, state_dir: Path, step: int, place: str) -> bool:
        """Whether the process was killed, and did not come to its end before."""
        moment_s = self.rng.random() * MOMENT_S
        return not self.install(
            state_dir,
            NEW.order(2, health=QUICK),
            self.base / NEW.version,
            lambda: kill_at_step(step, place, moment_s),
        )


def main() -> None:
    base, count, seed = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rounds = Rounds(base, seed)
    steps = rounds.count_steps()
    points = [(step, place) for place in PLACES for step in range(1, steps + 1)]
    killed, twice, met = 0, 0, Counter[str]()
    for number in range(count):
        # Every point in turn while there are rounds enough; a shorter run draws from them.
        step, place = points[number % len(points)] if count >= len(points) else (
            number % steps + 1, rounds.rng.choice(PLACES)
        )  # fmt: skip
        state_dir = rounds.fresh()
        try:
            if rounds.kill(state_dir, step, place):
                killed += 1
                met[place] += 1
            check_dead(state_dir)
            if rounds.rng.random() < 0.3:
                again = rounds.rng.randint(1, steps)
                twice += rounds.kill(state_dir, again, rounds.rng.choice(PLACES))
                check_dead(state_dir)
            check_restarted(state_dir, rounds.finish(state_dir))
        except AssertionError as error:
            raise SystemExit(f"round {number}: killed at step {step} {place}: {error}") from error
    print(json.dumps({"steps": steps, "killed": killed, "twice": twice, "places": dict(met)}))


if __name__ == "__main__":
    main()
