"""Whoever follows the tutorial word for word gets what it promises."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.docs.reader import ROOT, blocks, follow


@pytest.mark.timeout(240)
def test_the_tutorial_runs_word_for_word(tmp_path: Path) -> None:
    install, *steps = blocks("docs/tutorial.md")
    assert "pip install" in install  # what `make test` has done for this environment
    steps.append("edge-agent status --config tutorial/agent.toml --json\n")
    code, text = follow("\n".join(steps), tmp_path, timeout_s=220)
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
