"""Who may change the state directory: what others could have written is refused, or said."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from edge_agent.api import SOCKET_NAME, LocalApi
from edge_agent.doctor import examine
from edge_agent.errors import AgentError
from edge_agent.identity import Identity
from edge_agent.orders import GRACE_S
from edge_agent.statedir import StateDir
from tests.agent.conftest import Bench
from tests.agent.test_agent_alone import in_small_file_system
from tests.agent.test_order_desk import open_desk, ready_desk
from tests.trust.tuf_simulator import Publisher

DECISIVE = [".", "boot.json", "slots", "slots/A", "update", "update/journal"]
NOBODY = 64_123


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """As an agent leaves it."""
    with StateDir(tmp_path / "state") as held:
        for name in ("slots/A", "slots/B", "update"):
            (held.path / name).mkdir(parents=True)
        for name in ("boot.json", "update/journal"):
            (held.path / name).write_bytes(b"{}")
    return tmp_path / "state"


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


def test_what_an_agent_makes_is_nobody_else_s_whatever_started_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        for start in range(2):
            with StateDir(tmp_path / "state") as held:
                (held.path / "update").mkdir(exist_ok=True)
                (held.path / "update" / "journal").write_bytes(b"%d" % start)
        assert mode(tmp_path / "state") == 0o700
        assert mode(tmp_path / "state" / "update" / "journal") == 0o644
        assert os.umask(0o002) == 0o022
        StateDir(tmp_path / "state").close()
        assert os.umask(0o077) == 0o022
        StateDir(tmp_path / "state").close()
        assert os.umask(before) == 0o077, "and stricter stays stricter"
    finally:
        os.umask(before)


@pytest.mark.parametrize("bits", [0o002, 0o020, 0o777])
@pytest.mark.parametrize("name", DECISIVE)
def test_a_state_that_others_could_have_changed_starts_nothing(
    name: str, bits: int, state: Path
) -> None:
    path = state / name
    state.chmod(0o755)
    path.chmod(path.stat().st_mode | bits)
    before = mode(path)
    with pytest.raises(AgentError, match="may be changed by others") as refused:
        StateDir(state)
    assert f"chmod -R go-w {state}" in refused.value.hint
    assert mode(path) == before, "nothing is mended in silence"
    (finding,) = [f for f in examine(None, state) if "changed by others" in f.text]
    assert not finding.ok
    assert finding.hint == refused.value.hint
    os.system(f"chmod -R go-w {state}")  # the hint, word for word
    StateDir(state).close()


def test_a_state_of_an_earlier_release_under_umask_002_runs_on(state: Path) -> None:
    loose = [*(state / name for name in DECISIVE[1:]), state / "trust", state / "trust/root.json"]
    loose[-2].mkdir()
    loose[-1].write_bytes(b"{}")
    for path in loose:
        path.chmod(path.stat().st_mode | 0o020)
    assert not [f for f in examine(None, state) if "changed by others" in f.text]
    StateDir(state).close()  # nobody could come through the directory above
    assert not [path for path in loose if mode(path) & 0o022]


def test_closing_the_directory_makes_no_loose_trust_safe(state: Path) -> None:
    (state / "trust").mkdir()
    state.chmod(0o755)
    (state / "trust").chmod(0o777)
    for _ in range(2):
        StateDir(state).close()
        assert mode(state / "trust") == 0o777, "OrderDesk refuses it, after every start"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another account")
def test_root_in_a_container_starts_again_on_an_empty_directory_of_a_user(tmp_path: Path) -> None:
    os.chown(tmp_path, NOBODY, -1)
    for _ in range(2):
        StateDir(tmp_path).close()


def test_a_directory_that_others_may_only_read_or_that_is_empty_is_closed(
    state: Path, tmp_path: Path
) -> None:
    (tmp_path / "made").mkdir()
    for path, loose in ((state, 0o755), (tmp_path / "made", 0o777)):
        path.chmod(loose)
        StateDir(path).close()
        assert mode(path) == 0o700


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory to another account")
@pytest.mark.parametrize("name", DECISIVE)
def test_a_state_of_another_owner_starts_nothing_but_root_may_install_for_a_service(
    name: str, state: Path
) -> None:
    os.chown(state / name, NOBODY, -1)
    with pytest.raises(AgentError, match=f"belongs to user {NOBODY}") as refused:
        StateDir(state)
    assert f"sudo chown -R {os.geteuid()} {state};" in refused.value.hint
    if name == ".":
        StateDir(state, for_owner=True).close()
    else:
        with pytest.raises(AgentError, match=f"belongs to user {NOBODY}"):
            StateDir(state, for_owner=True)


@pytest.mark.parametrize("name", ["trust", "trust/last-order.json"])
def test_trust_that_others_could_have_changed_stops_new_installs(name: str, tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.approve("1.0.0")
    desk = ready_desk(tmp_path, publisher)
    desk.desired(publisher.order(), 0.0)
    assert desk.decide(1.0) is not None
    path = tmp_path / name
    path.chmod(path.stat().st_mode | 0o002)
    again = open_desk(tmp_path, publisher)
    assert again.damage is not None
    assert "may be changed by others" in again.damage.message
    assert "what runs keeps running" in again.last_refusal
    again.desired(publisher.order(seq=2), 0.0)
    assert "changed by others" in str(again.decide(GRACE_S + 1))


def test_trust_that_cannot_be_looked_at_stops_new_installs_and_no_model(tmp_path: Path) -> None:
    publisher = Publisher()
    ready_desk(tmp_path, publisher)
    (tmp_path / "trust" / "loop").symlink_to("loop")  # as a damaged directory does: no stat
    again = open_desk(tmp_path, publisher)
    assert again.damage is not None
    assert "what runs keeps running" in again.damage.message


@pytest.mark.parametrize("loose", [0o644, 0o640, 0o604])
def test_a_key_that_others_may_read_is_refused_and_not_mended(loose: int, tmp_path: Path) -> None:
    path = tmp_path / "device-key.pem"
    made = Identity(path)
    path.chmod(loose)
    with pytest.raises(AgentError, match=f"others may read this private key .mode {loose:04o}"):
        Identity(path)
    assert mode(path) == loose
    path.chmod(0o600)
    assert Identity(path).fingerprint == made.fingerprint


def test_only_the_agent_s_account_may_talk_to_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        api = LocalApi(tmp_path, lambda request: None)
    finally:
        os.umask(before)
    api.start()
    assert mode(tmp_path / SOCKET_NAME) == 0o600
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(tmp_path / SOCKET_NAME))
    api.stop()


def test_doctor_says_of_a_read_only_partition_what_run_says(bench: Bench) -> None:
    agent = f"{sys.executable} -m edge_agent.cli"
    script = (
        f"mount -o remount,ro {bench.state};"
        f" {agent} doctor --config {bench.config}; {agent} run --config {bench.config}"
    )
    done = in_small_file_system(bench, "1m", script)
    for text in (done.stdout, done.stderr):
        assert "cannot write the state directory" in text
        assert "mount a writable data partition there" in text
        assert "chown" not in text
