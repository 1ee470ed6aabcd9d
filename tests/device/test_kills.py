"""SIGKILL at every journal step of an install, over and over, with real processes.

``WHERRY_KILLS`` sets how many rounds (50; the evidence has 500), ``WHERRY_SEED`` replays a run.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys

import pytest

from tests.device.board import ROOT
from tests.device.test_power_cut import SEED
from tests.update.conftest import make_dir

pytestmark = [pytest.mark.device, pytest.mark.timeout(3600)]

KILLS = int(os.environ.get("WHERRY_KILLS", "50"))


def test_a_kill_at_every_journal_step_leaves_old_or_new_and_installs_nothing_twice() -> None:
    base = make_dir()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.device.kill_rounds", str(base), str(KILLS), str(SEED)],
            capture_output=True, text=True, cwd=ROOT, check=False,
        )  # fmt: skip
    finally:
        shutil.rmtree(base)
    assert done.returncode == 0, f"seed {SEED}: {done.stderr[-3000:]}"
    told = json.loads(done.stdout.splitlines()[-1])
    places = ", ".join(f"{count} {place}" for place, count in told["places"].items())
    print(f"\nkills: {KILLS} rounds, seed {SEED} (WHERRY_SEED replays it)")
    print(f"{told['steps']} journal steps an install; {told['killed']} kills ({places}),")
    print(f"{told['twice']} restarts killed as well; every round ended on the new version")
    # A kill "a moment later" at the last steps may come after the end.
    assert told["killed"] >= 0.8 * KILLS
