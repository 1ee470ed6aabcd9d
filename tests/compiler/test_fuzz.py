"""Random damage to models and data: one clear error or a result, in bounded time and memory."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
SECONDS = float(os.environ.get("WHERRY_FUZZ_S", "5"))


def test_no_damage_gives_anything_but_a_result_or_one_of_our_errors(tmp_path: Path) -> None:
    """Some hundreds of cases; ``make fuzz`` or ``WHERRY_FUZZ_S=300`` runs longer.

    In a process of its own, for its memory is bounded and native code may end it. The seed is
    printed, and with it the command that runs a case again.
    """
    seed = os.environ.get("WHERRY_FUZZ_SEED")
    words = ["--seconds", str(SECONDS), "--keep", str(tmp_path / "kept")]
    done = subprocess.run(
        [sys.executable, "-m", "tests.compiler.fuzz", *words, *(["--seed", seed] if seed else [])],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=SECONDS + 120,
        check=False,
    )
    print(done.stdout)
    case = tmp_path / "kept" / "number"
    last = case.read_text() if case.exists() else ""
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr[-4000:]}\nagain: {last}"
    assert "no finding" in done.stdout
