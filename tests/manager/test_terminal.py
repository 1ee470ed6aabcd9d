"""What ``edge-fleet`` answers to mistakes: one sentence and the next command, never a traceback."""

from __future__ import annotations

import json
import os
import pwd
import subprocess
from pathlib import Path

import pytest

from edge_contract.errors import ExitCode
from fleet.cli.rollout import _steps
from fleet.manager.state_dir import StateDir
from fleet.repository.key_files import new_key_file
from tests.manager.bundles import make_bundle
from tests.manager.test_command_line import ENVIRONMENT, PROGRAM, ROOT, edge_fleet

SILENT = {name: value for name, value in ENVIRONMENT.items() if not name.startswith("EDGE_FLEET_")}
WORDS = "a few words that nobody guesses"


def ended(*words: str | Path, stdout: int | str = subprocess.PIPE, **environment: str) -> list[str]:
    """Run one command as a process that has no terminal: its exit code, then its output's lines."""
    closed = stdout == "closed"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            ["sh", "-c", 'exec "$@" >&-', "sh", *PROGRAM, *map(str, words)]
            if closed
            else [*PROGRAM, *map(str, words)],
            cwd=ROOT,
            env={**SILENT, **environment},
            stdin=subprocess.DEVNULL,
            stdout=full if stdout == "full" else subprocess.PIPE,
            stderr=subprocess.STDOUT if stdout == subprocess.PIPE else subprocess.PIPE,
            text=True,
            timeout=60,
        )
    return [str(done.returncode), *((done.stdout or "") + (done.stderr or "")).splitlines()]


@pytest.fixture
def published(tmp_path: Path) -> Path:
    state = tmp_path / "state"
    edge_fleet("publish", make_bundle(tmp_path, "1.0.0"), state=state)
    return state


def test_a_full_disk_below_the_output_is_one_sentence(published: Path) -> None:
    code, *lines = ended("root", "--state", published, stdout="full")
    assert code == "1"
    assert lines[0] == "edge-fleet: the system refuses: No space left on device"
    assert lines[1].startswith("  try: free some space")
    assert not [line for line in lines if "Traceback" in line]


def test_an_output_that_is_closed_is_no_crash(published: Path) -> None:
    assert ended("line", "list", "--state", published, stdout="closed") == ["0"]


def test_a_place_that_is_not_there_is_named(published: Path, tmp_path: Path) -> None:
    target = tmp_path / "nowhere" / "fleet.backup"
    code, *lines = ended(
        *("backup", target, "--state", published, "--json"), EDGE_FLEET_PASSPHRASE=WORDS
    )
    error = json.loads(lines[-1])
    assert (code, error["code"]) == ("1", 1)
    assert "No such file or directory" in error["error"]
    assert "nowhere" in error["error"]
    assert error["hint"]


def test_a_passphrase_is_not_waited_for_where_nobody_is(tmp_path: Path) -> None:
    code, *lines = ended("key", "new", "ada", "--dir", tmp_path)
    assert code == str(int(ExitCode.AUTH))
    assert "nobody is here to ask" in lines[0]
    assert "--passphrase-file FILE, or EDGE_FLEET_PASSPHRASE" in lines[1]
    assert not list(tmp_path.iterdir())


def test_advice_is_for_the_fleet_that_was_given(published: Path, tmp_path: Path) -> None:
    given = f"(with --state {published})"
    _, *lines = ended("publish", tmp_path / "bundle-digits-1.0.0", "--state", published)
    assert f"next: edge-fleet rollout start digits 1.0.0 {given}" in lines
    _, *lines = ended("devices", "--state", published)
    assert lines[-1] == f"  try: start one: edge-fleet up {given}"
    # Where the environment names it, the command is right as it stands.
    _, *lines = ended("devices", EDGE_FLEET_STATE=str(published))
    assert lines[-1] == "  try: start one: edge-fleet up"


def test_a_directory_of_somebody_else_is_named_with_its_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Root may read everything, so that the refusal itself is played here.
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    error = edge_fleet("devices", state=tmp_path, code=4)
    assert f"{tmp_path} is {pwd.getpwuid(os.getuid()).pw_name}'s" in error["error"]
    assert "sudo" in error["hint"]


def test_a_mistyped_bundle_makes_no_keys(tmp_path: Path) -> None:
    state = tmp_path / "state"
    build = tmp_path / "build"
    make_bundle(build, "1.0.0").rename(build / "bundle")
    (tmp_path / "report.html").write_text("<p>")
    error = edge_fleet("publish", build, state=state, code=3)
    assert error["hint"] == f"edge-fleet publish {build / 'bundle'} (with --state {state})"
    edge_fleet("publish", tmp_path / "report.html", state=state, code=3)
    assert not state.exists()


def test_development_keys_are_told_of_once_a_command(tmp_path: Path) -> None:
    bundle, state = make_bundle(tmp_path, "1.0.0"), tmp_path / "state"
    for _ in range(2):
        _, *lines = ended("publish", bundle, "--state", state)
        assert len([line for line in lines if "DEVELOPMENT keys" in line]) == 1


def test_what_is_approved_is_listed(published: Path, tmp_path: Path) -> None:
    edge_fleet("publish", make_bundle(tmp_path, "1.1.0"), state=published)
    edge_fleet("line", "floor", "digits", "1.1.0", state=published)
    rows = edge_fleet("line", "list", state=published)
    assert [(row["line"], row["version"], row["floor"]) for row in rows] == [
        ("digits", "1.0.0", "1.1.0"),
        ("digits", "1.1.0", "1.1.0"),
    ]
    StateDir(tmp_path / "empty").prepare()
    assert edge_fleet("line", "list", state=tmp_path / "empty") == []


def test_a_mistyped_broker_makes_no_fleet(tmp_path: Path) -> None:
    error = edge_fleet("up", "--broker", "mosquito", state=tmp_path / "state", code=2)
    assert "auto, mosquitto, embedded" in error["error"]
    assert not (tmp_path / "state").exists()


def test_a_stick_for_nobody_is_not_written(published: Path, tmp_path: Path) -> None:
    words = ("export", "digits", "1.0.0", "--usb", tmp_path, "--devices", ",")
    assert "names joined by commas" in edge_fleet(*words, state=published, code=2)["error"]
    assert "expected --all" in edge_fleet(*words[:-2], state=published, code=2)["error"]
    assert "trial_s" in edge_fleet(*words, "--trial-s", "0", state=published, code=2)["error"]
    both = (*words[:-1], "cam-1", "--all")
    assert "and --all" in edge_fleet(*both, state=published, code=2)["error"]
    nobody = edge_fleet(*words[:-2], "--all", state=published, code=3)
    assert "no device of line digits is enrolled" in nobody["error"]
    assert not list(tmp_path.glob("wherry-*"))


def test_the_wrong_half_of_a_key_and_the_same_key_twice_are_refused(
    published: Path, tmp_path: Path
) -> None:
    for name in ("ada", "bob"):
        new_key_file(tmp_path, name, WORDS)
    ada, bob = tmp_path / "ada.pub", tmp_path / "bob.pub"
    adopt = ("key", "adopt", "--threshold", "2", "--key", ada, "--key")
    error = edge_fleet(*adopt, tmp_path / "bob.key", state=published, code=2)
    assert "the private half" in error["error"]
    assert "bob.pub" in error["hint"]
    error = edge_fleet(*adopt, ada, "--key", bob, state=published, code=2)
    assert "'ada'" in error["error"]
    assert "given twice" in error["error"]
    assert edge_fleet("event", "list", state=published) == []


def test_help_is_not_cut_and_no_command_is_help() -> None:
    code, *lines = ended()
    assert code == "2"
    assert lines[0].startswith("Usage: edge-fleet")
    assert not [line for line in lines if line.endswith("...") and "[ARGS]" not in line]
    assert not [line for line in lines if 'default: ""' in line]
    assert ended("line")[1].startswith("Usage: edge-fleet line")


def test_a_wait_tells_how_many_are_where() -> None:
    phases = ["trial", "trial", "committed", "self_test"]
    assert _steps([{"phase": phase} for phase in phases]) == (
        "2 trial, 1 committed, 1 self test of 4"
    )
    assert _steps([]) == ""


def test_only_a_mosquitto_is_told_to_read_its_list(tmp_path: Path) -> None:
    # A SIGHUP would end this process.
    from fleet.cli.broker import _require_mosquitto
    from fleet.errors import FleetError

    with pytest.raises(FleetError, match="left alone"):
        _require_mosquitto(os.getpid(), tmp_path / "crl.pem")
