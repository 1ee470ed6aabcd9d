"""Whoever follows a page word for word: its shell blocks, and a shell that runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """The shell blocks of a page, in order."""
    return _BLOCK.findall((ROOT / page).read_text())


def follow(script: str, home: Path, *, timeout_s: float) -> tuple[int, str]:
    """Run a script in ``home``, where the examples lie as in a checkout.

    Returns:
        its exit code, and what it and what it started said until then.
    """
    (home / "examples").symlink_to(ROOT / "examples")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "PYTHONUNBUFFERED": "1",
    }
    # The output goes to a file: background processes would keep a pipe open after the shell ended.
    with (home / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-ec", script],
            cwd=home,
            env=environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(timeout_s)
            # Before the rest is stopped: what it says then is none of the page's output.
            text = (home / "output").read_text()
        finally:
            # Every process of the page is stopped with its shell, whatever happened.
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
    return code, text
