"""Whoever follows "Compile your model" sees what it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
PAGE = (ROOT / "docs/compile-your-model.md").read_text()
_BLOCK = re.compile(r"^```(sh|text|python)\n(.*?)^```", re.MULTILINE | re.DOTALL)
PICTURE_LIMIT_BYTES = 150_000


@pytest.mark.timeout(240)
def test_every_command_runs_and_prints_what_the_page_shows(tmp_path: Path) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    environment = {
        **os.environ,
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    install, *blocks = _BLOCK.findall(PAGE)
    assert "pip install" in install[1]  # what `make test` has done for this environment
    printed: list[str] = []
    for kind, text in blocks:
        if kind == "sh":
            ran = subprocess.run(
                ["bash", "-ec", text], cwd=tmp_path, env=environment, capture_output=True, text=True
            )
            assert ran.returncode == 0, ran.stderr
            printed = ran.stdout.splitlines()
        elif kind == "text":
            shown = text.splitlines()
            # The page leaves out what another version of the runtime would print at a line's end.
            missing = [line for line in shown if not any(p.startswith(line) for p in printed)]
            assert missing == [], printed
    for name in ("report.html", "report.json", "sbom.json", "bundle/index.json"):
        assert (tmp_path / "try/build" / name).is_file()


def test_the_lines_that_split_arrays_of_ones_own_give_files_that_share_no_sample(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (code,) = [text for kind, text in _BLOCK.findall(PAGE) if kind == "python"]
    monkeypatch.chdir(tmp_path)
    x, y = np.arange(900, dtype=np.float32).reshape(900, 1), np.arange(900) % 3
    exec(code, {"x": x, "y": y})
    parts = [np.load(tmp_path / f"{name}.npz") for name in ("calibration", "test")]
    assert sum(len(part["y"]) for part in parts) == 900
    assert not set(parts[0]["x"].ravel()) & set(parts[1]["x"].ravel())


def test_the_readme_shows_the_report_and_links_the_page() -> None:
    readme = (ROOT / "README.md").read_text()
    assert "(docs/compile-your-model.md)" in readme
    assert "(docs/report.png)" in readme
    assert (ROOT / "docs/report.png").stat().st_size < PICTURE_LIMIT_BYTES
