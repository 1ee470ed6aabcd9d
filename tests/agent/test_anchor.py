"""What a root file counts for, beside what was kept of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from edge_agent.errors import AgentError
from edge_agent.trust import verifier
from edge_agent.trust.anchor import settle_anchor
from edge_contract.errors import TrustError
from tests.trust.tuf_simulator import Publisher


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = tmp_path / "root.json"
    path.write_bytes(Publisher().roots[0])
    return path


def test_a_device_begins_with_nothing_but_a_root(root: Path, tmp_path: Path) -> None:
    trust = tmp_path / "trust"
    good = root.read_bytes()
    root.write_text("[device]")
    with pytest.raises(AgentError, match="expected the fleet's root of trust") as told:
        settle_anchor(root, trust, installed=False)
    assert "edge-fleet root" in told.value.hint
    root.write_text('{"signed": {"_type": "root"}}')
    with pytest.raises(TrustError, match="root metadata refused"):
        settle_anchor(root, trust, installed=False)
    root.unlink()
    with pytest.raises(AgentError, match="No such file"):
        settle_anchor(root, trust, installed=False)
    root.write_bytes(good)
    assert settle_anchor(root, trust, installed=False).root == good


def test_what_was_kept_outlives_its_file(root: Path, tmp_path: Path) -> None:
    trust = tmp_path / "trust"
    good = root.read_bytes()
    settle_anchor(root, trust, installed=False)
    root.unlink()
    for installed in (False, True):
        found = settle_anchor(root, trust, installed=installed)
        assert (found.root, found.damage) == (good, None)
        assert "edge-fleet root" in found.note


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "nothing-kept"])
@pytest.mark.parametrize("wrong", ["text", "stranger", "gone"])
def test_an_installed_version_runs_whatever_lies_there(
    root: Path, tmp_path: Path, wrong: str, kept: bool
) -> None:
    trust = tmp_path / "trust"
    good = root.read_bytes()
    if kept:
        settle_anchor(root, trust, installed=False)
    if wrong == "gone":
        root.unlink()
    else:
        root.write_bytes(b"{}" if wrong == "text" else Publisher().roots[0])
    found = settle_anchor(root, trust, installed=True)
    if kept:
        assert found.root == good
        assert (found.damage is None) == (wrong == "gone")
    else:
        # With nothing kept, a sound root begins anew, as on the first day.
        assert (found.damage is None) == (wrong == "stranger")
    if found.damage is not None:
        assert "what runs keeps running" in found.damage.message


def test_a_root_that_the_disk_does_not_keep_stops_installs_alone(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, data: bytes) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(verifier, "write_durably", refuse)
    damage = settle_anchor(root, tmp_path / "trust", installed=True).damage
    assert damage is not None
    assert "Read-only file system; new installs stop" in damage.message
    with pytest.raises(AgentError, match="cannot keep the trust root"):
        settle_anchor(root, tmp_path / "trust", installed=False)
