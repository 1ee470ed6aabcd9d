"""Hooks are real programs here, run for real."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest

from firmware_hooks.errors import HookError
from firmware_hooks.protocol import RULES
from firmware_hooks.runner import OUTPUT_LIMIT_BYTES, REASON_LIMIT_CHARS, run_hook

FACTS = {"STATE": "pre-install", "MODEL_NAME": "digits", "VERSION": "1.2.0", "SLOT_DIR": "/s/B"}


@pytest.fixture
def hooks(tmp_path: Path) -> Path:
    directory = tmp_path / "hooks"
    (directory / "v1").mkdir(parents=True)
    for path in (directory, directory / "v1"):
        path.chmod(0o755)
    return directory


def write_hook(hooks: Path, body: str, name: str = "pre-install", mode: int = 0o755) -> Path:
    path = hooks / "v1" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    ("body", "answer"),
    [
        ("exit 0", "ok"),
        ("echo ok", "ok"),
        ("echo later", "later"),
        ("echo refuse", "refuse"),
        ("echo ok; exit 3", "refuse"),
        ("echo okay", "refuse"),
        ("echo ok; echo later", "refuse"),
        ("printf '\\377\\376'", "refuse"),
        ("echo ok; head -c 5000 /dev/zero | tr '\\0' ' '; echo refuse", "refuse"),
        ("kill -9 $$", "refuse"),
    ],
)
def test_only_a_clean_exit_with_a_known_word_is_an_answer(
    hooks: Path, body: str, answer: str
) -> None:
    write_hook(hooks, body)
    result = run_hook(hooks, "pre-install", FACTS)
    assert (result.answer, result.ran) == (answer, True)
    assert bool(result.reason) == (answer != "ok")


@pytest.mark.parametrize("name", list(RULES))
def test_a_hook_that_is_not_there_gets_its_default(hooks: Path, name: str) -> None:
    assert run_hook(hooks, name, FACTS).answer == RULES[name].missing == "ok"
    assert run_hook(None, name, FACTS).ran is False


def test_facts_come_by_environment_and_nothing_else_does(
    hooks: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of the agent")
    write_hook(hooks, "env > seen; pwd >> seen")
    assert run_hook(hooks, "pre-install", FACTS).answer == "ok"
    seen = (hooks / "v1" / "seen").read_text()
    for line in (
        "WHERRY_HOOK_API=1",
        "WHERRY_STATE=pre-install",
        "WHERRY_VERSION=1.2.0",
        "WHERRY_SLOT_DIR=/s/B",
        str(hooks / "v1"),
    ):
        assert line in seen.splitlines()
    assert "SECRET" not in seen


def test_stderr_becomes_the_reason_cut_to_its_limit(hooks: Path) -> None:
    write_hook(hooks, "echo 'the arm moves' >&2; echo later")
    assert run_hook(hooks, "pre-install", FACTS).reason == (
        "hook pre-install says later: the arm moves"
    )
    write_hook(
        hooks, "i=0; while [ $i -lt 20000 ]; do echo xxxxxxxxxx; i=$((i+1)); done >&2; exit 1"
    )
    result = run_hook(hooks, "pre-install", FACTS)
    assert result.reason.startswith("hook pre-install exited with 1: ")
    assert len(result.reason) < REASON_LIMIT_CHARS + 50 < OUTPUT_LIMIT_BYTES


@pytest.mark.parametrize(("name", "answer"), [("pre-install", "later"), ("health", "refuse")])
def test_a_hook_that_hangs_is_ended_with_all_its_children(
    hooks: Path, name: str, answer: str
) -> None:
    write_hook(hooks, "trap '' TERM; sleep 600 & echo $! > child; sleep 600", name)
    began_s = time.monotonic()
    result = run_hook(hooks, name, FACTS, timeout_s=0.3)
    assert result.answer == answer == RULES[name].on_timeout
    assert "did not end within 0.3 s" in result.reason
    assert time.monotonic() - began_s < 6
    assert _gone(int((hooks / "v1" / "child").read_text()))


def test_children_left_behind_by_a_hook_that_ended_are_killed(hooks: Path) -> None:
    write_hook(hooks, "sleep 600 & echo $! > child; echo ok")
    began_s = time.monotonic()
    assert run_hook(hooks, "pre-install", FACTS).answer == "ok"
    assert time.monotonic() - began_s < 5
    assert _gone(int((hooks / "v1" / "child").read_text()))


def test_a_hook_can_be_ended_early(hooks: Path) -> None:
    write_hook(hooks, "sleep 600")
    stop = threading.Event()
    threading.Timer(0.2, stop.set).start()
    result = run_hook(hooks, "pre-install", FACTS, stop=stop)
    assert (result.answer, result.duration_s < 5) == ("refuse", True)


def test_a_hook_that_closes_its_output_and_goes_on_is_waited_for(hooks: Path) -> None:
    write_hook(hooks, "exec >&- 2>&-; sleep 0.2; exit 4")
    assert "exited with 4" in run_hook(hooks, "pre-install", FACTS).reason


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777])
def test_a_hook_that_strangers_could_write_is_never_run(hooks: Path, mode: int) -> None:
    write_hook(hooks, "touch ran", mode=mode)
    result = run_hook(hooks, "pre-install", FACTS)
    assert (result.answer, result.ran) == ("refuse", False)
    assert "chmod go-w" in result.reason
    write_hook(hooks, "touch ran")
    (hooks / "v1").chmod(mode)
    assert run_hook(hooks, "pre-install", FACTS).ran is False
    (hooks / "v1").chmod(0o755)
    hooks.chmod(mode)
    assert run_hook(hooks, "pre-install", FACTS).ran is False
    assert not (hooks / "v1" / "ran").exists()


def test_links_foreign_owners_and_odd_files_are_never_run(hooks: Path, tmp_path: Path) -> None:
    path = hooks / "v1" / "pre-install"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_text("#!/bin/sh\n")
    elsewhere.chmod(0o755)
    path.symlink_to(elsewhere)
    assert "symbolic link" in run_hook(hooks, "pre-install", FACTS).reason
    path.unlink()
    path.symlink_to(tmp_path / "nothing")
    assert "symbolic link" in run_hook(hooks, "pre-install", FACTS).reason
    path.unlink()
    path.mkdir()
    assert "no plain file" in run_hook(hooks, "pre-install", FACTS).reason
    path.rmdir()
    write_hook(hooks, "exit 0", mode=0o644)
    assert "not executable" in run_hook(hooks, "pre-install", FACTS).reason
    write_hook(hooks, "exit 0")
    path.write_text("no interpreter line\n")
    assert "cannot be run" in run_hook(hooks, "pre-install", FACTS).reason
    if os.geteuid() == 0:
        os.chown(path, 12345, 12345)
        assert "belongs to user 12345" in run_hook(hooks, "pre-install", FACTS).reason


def test_a_named_hook_directory_that_is_not_there_is_no_consent(tmp_path: Path) -> None:
    (tmp_path / "hooks").mkdir(mode=0o755)
    for directory in (tmp_path / "missing", tmp_path / "hooks"):
        result = run_hook(directory, "pre-install", FACTS)
        assert (result.answer, result.ran) == ("refuse", False)
        assert "there is no" in result.reason


def test_what_the_protocol_does_not_know_is_refused(hooks: Path) -> None:
    with pytest.raises(HookError, match="no hook 'post-reboot'"):
        run_hook(hooks, "post-reboot", FACTS)
    with pytest.raises(HookError, match="in capitals"):
        run_hook(hooks, "health", {"LD_PRELOAD=x": "y"})


def _gone(pid: int) -> bool:
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


def test_a_hook_whose_exit_nobody_can_collect_is_no_consent(hooks: Path) -> None:
    """Who starts the agent may have left SIGCHLD ignored; then the kernel keeps no exit code."""
    write_hook(hooks, "sleep 0.2; exit 1")
    before = signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    try:
        result = run_hook(hooks, "pre-install", FACTS)
    finally:
        signal.signal(signal.SIGCHLD, before)
    assert result.answer == "refuse"
    assert "SIGCHLD" in result.reason
