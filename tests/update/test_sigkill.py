"""Real processes, killed for real at every flush of an install from one version to the next."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edge_agent.update.journal import read_journal
from edge_contract.digest import hex_of
from edge_contract.health import HealthSpec
from tests.update.bundles import Version, make_version, whole_digest

OLD, NEW = make_version("1.0.0"), make_version("2.0.0")
QUICK = HealthSpec(trial_s=0.05, frames_min=20, restarts_max=3, deadline_s=15.0)


class Rig:
    """A template state directory with the old version in it, and a fleet with both."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.template = root / "template"
        self.template.mkdir()
        for seq, version in ((1, OLD), (2, NEW)):
            blobs = root / version.version / "blobs"
            blobs.mkdir(parents=True)
            for digest, data in version.blobs.items():
                (blobs / hex_of(digest)).write_bytes(data)
            order = version.order(seq, health=QUICK)
            (root / f"{version.version}.json").write_bytes(msgspec.json.encode(order))
        self.install(self.template, OLD)

    def install(self, state_dir: Path, version: Version, kill_at: int = 0) -> dict[str, object]:
        """Run the process; what it printed, or {} where it was killed."""
        done = subprocess.run(
            [sys.executable, "-m", "tests.update.installing_process", str(state_dir),
             str(self.root / version.version), str(self.root / f"{version.version}.json"),
             str(kill_at)],
            capture_output=True, timeout=60, check=False, cwd=Path(__file__).parents[2],
        )  # fmt: skip
        if done.returncode == -signal.SIGKILL:
            return {}
        assert done.returncode == 0, done.stderr.decode()
        result: dict[str, object] = json.loads(done.stdout)
        return result


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


STRIDE = 1 if os.environ.get("WHERRY_KILL_EVERYWHERE") else 3
"""Every flush has a point before it (odd) and one after it; a stride of three meets both kinds.
``WHERRY_KILL_EVERYWHERE=1`` kills at all of them (two minutes on a slow machine)."""


def test_a_kill_at_any_flush_leaves_old_or_new_and_the_restart_finishes(rig: Rig) -> None:
    killed = 0
    for point in range(1, 400, STRIDE):
        state_dir = rig.root / "state"
        shutil.copytree(rig.template, state_dir)
        if rig.install(state_dir, NEW, kill_at=point):
            shutil.rmtree(state_dir)
            break
        killed += 1
        check_dead(state_dir)
        result = rig.install(state_dir, NEW)
        check_restarted(state_dir, result)
        shutil.rmtree(state_dir)
    else:
        pytest.fail("an install never came to its end")
    print(f"killed at {killed} points")
    assert killed >= 60 // STRIDE


def check_dead(state_dir: Path) -> None:
    """What lies on the disk between the two processes."""
    pointer = json.loads((state_dir / "boot.json").read_bytes())
    assert pointer["active_digest"] in (OLD.digest, NEW.digest)
    assert whole_digest(state_dir / "slots" / pointer["active"]) == pointer["active_digest"]
    if pointer["trial"]:
        assert (pointer["trial_digest"], pointer["active_digest"]) == (NEW.digest, OLD.digest)
        assert whole_digest(state_dir / "slots" / pointer["trial"]) == NEW.digest


def check_restarted(state_dir: Path, result: dict[str, object]) -> None:
    """The second process knew what it ran, finished the order, and installed nothing twice."""
    found, status = result["found"], result["status"]
    assert isinstance(found, dict)
    assert isinstance(status, dict)
    assert found["active"]["digest"] in (OLD.digest, NEW.digest)
    assert (result["running"], status["active"]["digest"]) == (NEW.digest, NEW.digest)
    assert status["fallback"]["digest"] == OLD.digest
    facts = [f for e in read_journal(state_dir / "update" / "journal") for f in e.facts]
    for what, slot in (("entered", "B"), ("active", "B")):
        assert [f.slot for f in facts if (f.what, f.digest) == (what, NEW.digest)] == [slot]
