"""The shared victim, and the table of what was refused by what (docs/evidence/attacks.md).

``WHERRY_WRITE_EVIDENCE=1 python -m pytest tests/attacks`` writes the table anew.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.infer.model import LoadedModel, load_model
from examples.digits.frames import write_frames
from tests.agent.bundles import HARDWARE, digits_bundle
from tests.attacks.victim import Victim

EVIDENCE = Path(__file__).parents[2] / "docs" / "evidence" / "attacks.md"
_HEAD = """# Attacks, and what refused them

Written by `WHERRY_WRITE_EVIDENCE=1 python -m pytest tests/attacks`. Each row is one test: the
attack was carried out on the real agent while a model answered frames, the line stood in its log
(or was the answer to the owner who handed in the file), and the same model went on answering.

{count} attacks.

| attack | refused by | log line |
|---|---|---|
"""

_IDENTITY = """
## On codes, certificates and the broker

On a real mosquitto with the generated settings and real certificates (`test_identity_*.py` in
`tests/attacks`); each test asserts what refused it.

{count} tests hold identity.

"""


@pytest.fixture(scope="session")
def frames(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("frames") / "frames"
    write_frames(path, count=10, seed=1)
    return path


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    from edge_contract.layout import BundleDir

    home = tmp_path_factory.mktemp("model")
    digest = digits_bundle(home / "bundle")
    bundle = BundleDir(home / "bundle")
    for layer in bundle.manifest.layers:
        path = home / "slot" / layer.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bundle.read_file(layer.path))
    return load_model(home / "slot", digest, "A", HARDWARE, 1)


@pytest.fixture
def victim(
    tmp_path: Path,
    frames: Path,
    model: LoadedModel,
    request: pytest.FixtureRequest,
) -> Iterator[Victim]:
    """A device that runs a model and has obeyed one order."""

    def record(by: str, line: str) -> None:
        request.node.user_properties.append(("attack", (request.node.name, by, line)))

    victim = Victim(tmp_path, frames, model, record)
    victim.settle()
    yield victim
    victim.close()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    rows = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in getattr(report, "user_properties", ()):
            if name == "attack" and report.when == "call":
                rows.setdefault(value[0], value)
    if not rows:
        return
    terminalreporter.write_line(f"{len(rows)} attacks refused, the model went on inferring in each")
    if os.environ.get("WHERRY_WRITE_EVIDENCE"):
        lines = [
            f"| {name.removeprefix('test_').replace('_', ' ')} | {by} | `{line}` |"
            for name, by, line in sorted(rows.values())
        ]
        names = identity_attacks()
        listed = _IDENTITY.format(count=len(names)) + "\n".join(f"- {name}" for name in names)
        head = _HEAD.format(count=len(rows))
        EVIDENCE.write_text(f"{head}{chr(10).join(lines)}\n{listed}\n")


def identity_attacks() -> list[str]:
    """Names of the attacks on codes, certificates and the broker, as their tests tell them."""
    names: set[str] = set()
    for path in Path(__file__).parent.glob("test_identity_*.py"):
        names |= set(re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE))
    return sorted(name.replace("_", " ") for name in names)
