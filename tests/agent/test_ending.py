"""The end of an agent: every part is closed whatever fails, and only a stop asked for is clean."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec
import pytest

from edge_agent.agent import Agent
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.statedir import StateDir
from edge_agent.update.boot import RUNNING_FILE, BootMarker
from tests.agent.bundles import HARDWARE
from tests.trust.tuf_simulator import Publisher


@pytest.fixture
def agent(tmp_path: Path) -> Agent:
    (tmp_path / "root.json").write_bytes(Publisher().roots[0])
    (tmp_path / "frames").mkdir()
    device = {"fleet": "test", "id": "cam-1", "hardware": HARDWARE, "line": "digits"}
    config = {
        "device": {**device, "state_dir": str(tmp_path / "state")},
        "trust": {"root": str(tmp_path / "root.json")},
        "source": {"kind": "directory", "path": str(tmp_path / "frames")},
        "drift": {"enabled": False},
    }
    return Agent(msgspec.convert(config, AgentConfig), SystemClock())


def ended(state_dir: Path) -> None:
    """Nothing of the agent is left: no socket, and no lock."""
    assert not (state_dir / "agent.sock").exists()
    StateDir(state_dir).close()


@pytest.mark.parametrize(
    "part",
    ["engine.stop", "recorder.stop", "spool.flush", "fleet.tick", "fleet.stop", "budget.close",
     "api.stop", "worker.stop", "spool.close"],
)  # fmt: skip
def test_a_part_that_fails_to_close_keeps_no_other_from_it(
    agent: Agent, part: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, method = part.split(".")
    owner = getattr(agent.parts, name)
    close = getattr(owner, method)

    def fail(*arguments: object) -> None:
        close(*arguments)
        raise OSError(errno.ENOSPC, "No space left on device")

    agent.stop()
    monkeypatch.setattr(owner, method, fail)
    agent.run()
    assert not (tmp_path / "state" / RUNNING_FILE).exists(), "the stop was asked for"
    ended(tmp_path / "state")


def test_a_loop_that_breaks_ends_as_a_crash_and_closes_all_the_same(
    agent: Agent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a version that breaks the loop would be started for ever: only crashes are counted."""

    def broken(now_s: float) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(agent, "_tick_update", broken)
    with pytest.raises(ZeroDivisionError):
        agent.run()
    boot_id = (tmp_path / "state" / RUNNING_FILE).read_text().strip()
    assert BootMarker(tmp_path / "state", boot_id).begin() == "crash"
    ended(tmp_path / "state")
