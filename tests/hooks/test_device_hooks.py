"""The device's hooks and the bundle's, asked through the agent's own runner."""

from __future__ import annotations

import queue
import time
from pathlib import Path

import pytest

from edge_agent.hooks import DeviceHooks
from edge_agent.update.effects import Hook
from edge_agent.update.events import Event, HookAnswer


@pytest.fixture
def places(tmp_path: Path) -> tuple[Path, Path]:
    """The device's hooks and a slot with a bundle's."""
    own, slot = tmp_path / "hooks", tmp_path / "files"
    for path in (own, own / "v1", slot, slot / "hooks", slot / "hooks" / "v1"):
        path.mkdir(mode=0o755)
    return own, slot


def write(directory: Path, name: str, body: str) -> None:
    path = directory / "v1" / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def ask(own: Path, slot: Path, hook: Hook, *, from_bundle: bool) -> HookAnswer:
    answers: queue.Queue[Event] = queue.Queue()
    hooks = DeviceHooks(own, answers.put, from_bundle=from_bundle)
    hooks.start_hook(7, hook, {"SLOT_DIR": str(slot), "STATE": hook})
    answer = answers.get(timeout=20)
    assert isinstance(answer, HookAnswer)
    assert answer.ticket == 7
    return answer


def test_a_bundles_hook_is_not_run_unless_the_device_says_so(places: tuple[Path, Path]) -> None:
    own, slot = places
    write(slot / "hooks", "health", "echo ran > ran; exit 1")
    assert ask(own, slot, "health", from_bundle=False).answer == "ok"
    assert not (slot / "hooks" / "v1" / "ran").exists()
    assert ask(own, slot, "health", from_bundle=True).answer == "refuse"
    assert (slot / "hooks" / "v1" / "ran").exists()


def test_both_must_agree_and_the_devices_own_is_asked_first(places: tuple[Path, Path]) -> None:
    own, slot = places
    write(own, "health", "echo later")
    write(slot / "hooks", "health", "echo ran > ran")
    assert ask(own, slot, "health", from_bundle=True).answer == "later"
    assert not (slot / "hooks" / "v1" / "ran").exists()
    write(own, "health", "exit 0")
    assert ask(own, slot, "health", from_bundle=True).answer == "ok"
    assert (slot / "hooks" / "v1" / "ran").exists()


@pytest.mark.parametrize("hook", ["pre-fetch", "pre-install"])
def test_a_bundle_has_no_say_in_whether_it_is_fetched_or_written(
    places: tuple[Path, Path], hook: Hook
) -> None:
    own, slot = places
    write(slot / "hooks", hook, "exit 1")
    assert ask(own, slot, hook, from_bundle=True).answer == "ok"


def test_a_bundle_without_hooks_is_asked_nothing(places: tuple[Path, Path]) -> None:
    own, slot = places
    (slot / "hooks" / "v1").rmdir()
    assert ask(own, slot, "health", from_bundle=True).answer == "ok"


def test_a_linked_bundle_hook_is_refused(places: tuple[Path, Path], tmp_path: Path) -> None:
    own, slot = places
    (tmp_path / "elsewhere").write_text("#!/bin/sh\n")
    (slot / "hooks" / "v1" / "health").symlink_to(tmp_path / "elsewhere")
    answer = ask(own, slot, "health", from_bundle=True)
    assert answer.answer == "refuse"
    assert "symbolic link" in answer.reason


def test_a_notice_runs_to_its_end_though_the_next_question_comes(
    places: tuple[Path, Path],
) -> None:
    own, slot = places
    write(own, "post-commit", "sleep 0.5; echo $WHERRY_STATE > told")
    answers: queue.Queue[Event] = queue.Queue()
    hooks = DeviceHooks(own, answers.put)
    hooks.tell("post-commit", {"SLOT_DIR": str(slot), "STATE": "post-commit"})
    hooks.start_hook(1, "pre-fetch", {"SLOT_DIR": str(slot), "STATE": "pre-fetch"})
    hooks.cancel()
    until_s = time.monotonic() + 10
    while not (own / "v1" / "told").exists() and time.monotonic() < until_s:
        time.sleep(0.05)
    assert (own / "v1" / "told").read_text() == "post-commit\n"


def test_the_end_of_the_agent_leaves_no_hook_behind(places: tuple[Path, Path]) -> None:
    own, slot = places
    write(own, "health", "sleep 60 & echo $! > asked; wait")
    write(own, "post-commit", "sleep 60 & echo $! > told; wait")
    write(own, "post-rollback", "sleep 0.5; echo ended > short")
    answers: queue.Queue[Event] = queue.Queue()
    hooks = DeviceHooks(own, answers.put)
    facts = {"SLOT_DIR": str(slot)}
    hooks.tell("post-commit", facts)
    hooks.tell("post-rollback", facts)
    hooks.start_hook(1, "health", facts)
    until_s = time.monotonic() + 10
    marks = [own / "v1" / "asked", own / "v1" / "told"]
    while not all(m.exists() and m.read_text() for m in marks) and time.monotonic() < until_s:
        time.sleep(0.02)
    hooks.close(grace_s=1.5)
    until_s = time.monotonic() + 5  # a killed process is gone when the kernel comes to it
    for mark in marks:
        while running(int(mark.read_text())):
            assert time.monotonic() < until_s, f"{mark.name} outlived the agent"
            time.sleep(0.02)
    assert (own / "v1" / "short").read_text() == "ended\n"


def running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
