"""A state directory that takes no write: over what was installed the agent starts all the same."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_agent import statedir
from edge_agent.errors import AgentError
from edge_agent.statedir import StateDir, is_locked
from edge_agent.update.pointer import BOOT_FILE


@pytest.fixture
def worn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A card of which nothing but reading is left."""
    StateDir(tmp_path / "state").close()

    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(statedir, "write_durably", refuse)
    return tmp_path / "state"


def test_a_worn_card_is_said_and_locked_all_the_same(worn: Path) -> None:
    (worn / BOOT_FILE).write_text("{}")
    with StateDir(worn) as state:
        assert "Input/output error; what is installed runs all the same" in state.read_only
        assert not state.full
        assert is_locked(worn)
        with pytest.raises(AgentError, match="another edge-agent"):
            StateDir(worn)
    assert not is_locked(worn)


def test_a_worn_card_with_nothing_to_run_is_refused(worn: Path) -> None:
    with pytest.raises(AgentError, match="Input/output error"):
        StateDir(worn)
    assert not is_locked(worn)
