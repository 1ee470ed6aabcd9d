"""Every tool says which release it is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from edge_contract import __version__


@pytest.mark.parametrize(
    ("tool", "module"),
    [
        ("edge-agent", "edge_agent.cli"),
        ("edge-compile", "compiler.cli"),
        ("edge-fleet", "fleet.cli"),
    ],
)
def test_every_tool_says_its_version(tool: str, module: str) -> None:
    code = f"import sys; from {module} import main; sys.argv[0] = {tool!r}; sys.exit(main())"
    words = [sys.executable, "-c", code, "--version"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout == f"{tool} {__version__}\n"
