"""Whoever follows the tutorial word for word gets what it promises."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> list[str]:
    """The shell blocks of a page, in order."""
    return _BLOCK.findall((ROOT / page).read_text())


@pytest.mark.timeout(240)
def test_the_tutorial_runs_word_for_word(tmp_path: Path) -> None:
    install, *steps = blocks("docs/tutorial.md")
    assert "pip install" in install  # what `make test` has done for this environment
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    # Every process of the tutorial is stopped with its shell, whatever happened.
    script = (
        "set -e\n" + "\n".join(steps) + "\nedge-agent status --config tutorial/agent.toml --json\n"
    )
    # The output goes to a file: background processes would keep a pipe open after the shell ended.
    with (tmp_path / "output").open("wb") as output:
        shell = subprocess.Popen(
            ["bash", "-c", script],
            cwd=tmp_path,
            env={
                **os.environ,
                "PATH": f"{BIN}:{os.environ['PATH']}",
                "PYTHONPATH": str(ROOT),
                "PYTHONUNBUFFERED": "1",
            },
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = shell.wait(220)
            # Before the rest is stopped: what it says then is none of the tutorial's output.
            text = (tmp_path / "output").read_text()
        finally:
            with suppress(ProcessLookupError):
                os.killpg(shell.pid, signal.SIGTERM)
    assert code == 0, text
    status = json.loads(text.splitlines()[-1])
    assert status["model_version"] == "1.0.0"
    assert status["link"]["up"] is True
    assert (tmp_path / "tutorial" / "build" / "report.html").is_file()
    assert "goes on trial with the next `edge-agent run`" in text


def test_the_readme_names_only_targets_of_make_that_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = set(re.findall(r"\bmake ([a-z]+)\b", (ROOT / "README.md").read_text()))
    assert {"demo", "test"} <= named
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
