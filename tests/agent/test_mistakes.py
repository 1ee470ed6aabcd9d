"""What ``edge-agent`` answers to mistakes on the device."""

from __future__ import annotations

import io
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent import doctor
from edge_agent.apply import find_medium
from edge_agent.cli import main
from edge_agent.config import load_config
from edge_agent.errors import AgentError
from edge_agent.status_text import status_lines
from edge_agent.steps import Steps
from edge_contract.errors import ExitCode
from tests.agent.conftest import ROOT

GOOD = """
[device]
fleet = "home"
id = "cam-1"
hardware = "generic-x86-64"
line = "digits"
state_dir = "/var/lib/wherry"
[trust]
root = "root.json"
[source]
kind = "directory"
path = "frames"
"""


def test_the_example_that_a_pi_begins_with_leads_to_a_broker_and_to_enroll() -> None:
    example = ROOT / "packaging" / "deb" / "agent.toml.example"
    mqtt = load_config(example).mqtt
    assert mqtt is not None
    assert mqtt.tls
    assert "edge-agent enroll" in example.read_text()


@pytest.mark.parametrize(
    ("old", "new", "message", "hint"),
    [
        ("[source]", "[mqtt]\nhost = 'b'\nprot = 1\n[source]", "[mqtt] has no 'prot'", "port?"),
        ("[source]", "[mqqt]\nhost = 'b'\n[source]", "the file has no 'mqqt'", "mean mqtt?"),
        ('id = "cam-1"\n', "", "[device] lacks 'id'", "docs/reference/edge-agent.md"),
        ('path = "frames"', "path = 1", "source.path: expected str, got int", ""),
        ('"directory"', '"folder"', "source.kind: invalid enum value 'folder'", ""),
    ],
)
def test_a_mistake_in_the_file_is_told_in_the_words_of_the_file(
    tmp_path: Path, old: str, new: str, message: str, hint: str
) -> None:
    path = tmp_path / "agent.toml"
    path.write_text(GOOD.replace(old, new))
    with pytest.raises(AgentError) as told:
        load_config(path)
    assert told.value.message == f"{path}: {message}"
    assert hint in told.value.hint
    assert told.value.exit_code is ExitCode.USAGE


def findings(tmp_path: Path, change: Callable[[str], str] = str) -> dict[str, str]:
    path = tmp_path / "agent.toml"
    path.write_text(change(GOOD.replace("root.json", str(tmp_path / "root.json"))))
    return {f.text: f.hint for f in doctor.examine(path, tmp_path) if not f.ok}


def test_doctor_reads_the_root_and_knows_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "root.json"
    root.write_text("[device]")
    found = [text for text in findings(tmp_path) if "trust root" in text]
    assert found == [f"trust root {root} is no root of trust but something else"]
    root.write_text('{"signed": {"_type": "root"}}')
    assert not [text for text in findings(tmp_path) if "trust root" in text]
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    wrong = findings(tmp_path, lambda text: text.replace("generic-x86-64", "raspberry-pi-4"))
    assert wrong["device profile raspberry-pi-4 is for aarch64, this machine is x86_64"] == (
        'set [device] hardware = "generic-x86-64"'
    )


def test_doctor_misses_the_opencv_of_a_camera(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    wrong = findings(tmp_path, lambda text: text.replace('"directory"', '"camera"'))
    hint = wrong["source.kind = 'camera' needs OpenCV, and it is not installed"]
    assert "--extras agent,vision" in hint


def test_a_wrong_root_file_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = tmp_path / "agent.toml"
    wrong.write_text(GOOD)
    words = ["install", str(tmp_path), "--trust", str(wrong), "--state-dir", str(tmp_path / "s")]
    assert main(words) == ExitCode.AUTH
    said = capsys.readouterr().err
    assert f"{wrong}: expected the fleet's root of trust" in said
    assert "edge-fleet root > root.json" in said
    assert not (tmp_path / "s").exists()


def test_a_stick_that_is_not_mounted_is_told_from_an_empty_one(tmp_path: Path) -> None:
    with pytest.raises(AgentError, match="is it mounted"):
        find_medium(tmp_path / "stick")
    with pytest.raises(AgentError, match="found none") as told:
        find_medium(tmp_path)
    assert "edge-fleet export" in told.value.hint


def test_a_long_step_shows_that_it_lives() -> None:
    lines: list[str] = []
    thrice = threading.Event()

    def show(line: str) -> None:
        lines.append(line)
        if len(lines) == 3:
            thrice.set()

    with Steps(show, every_s=0.01) as steps:
        steps("digits 1.0.0 trial")
        assert thrice.wait(10)
    assert lines[0] == "digits 1.0.0 trial"
    assert lines[1] == "  0.01 s since: digits 1.0.0 trial"


def a_status(**more: object) -> dict[str, Any]:
    return {
        "fleet": "home",
        "device": "cam-1",
        "hardware": "generic-x86-64",
        "active_digest": "",
        "inference": {"answered_count": 3, "latency_p95_ms": None, "frames_dropped_count": 0},
        "link": {"up": True, "refused": ""},
        "spool": {
            "waiting_records_count": 0,
            "used_bytes": 0,
            "cap_bytes": 64e6,
            "dropped_count": 0,
        },
        "update": {"held": False, "stage": "idle"},
        "update_opens_ts": 0.0,
        "budget": {"metered": False},
        "configuration": [],
        "config_epoch": 0,
        "config_seq": 0,
        "config_refused": "",
        "last_refusal": "",
        **more,
    }


def test_a_step_before_any_figure_shows_none() -> None:
    status = a_status()
    (line,) = [line for line in status_lines(status) if line.startswith("inference")]
    assert "p95 - ms" in line


def test_a_version_on_trial_is_not_in_the_slot_that_it_may_have_to_return_to() -> None:
    trial = {"held": False, "stage": "trial", "order": {"version": "1.3.0"}, "waits_for": ""}
    status = a_status(
        **{"line": "digits", "model_version": "1.3.0", "active_slot": "A"},
        active_digest="sha256:" + "a" * 64,
        update={**trial, "progress_percent": 100.0},
    )
    assert "runs       digits 1.3.0 on trial; slot A keeps what ran before" in status_lines(status)
    first = {**status, "active_digest": "", "active_slot": ""}
    assert "runs       digits 1.3.0 on trial" in status_lines(first)


def test_an_output_that_knows_no_unicode_or_is_closed_is_no_crash(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    raw = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding="ascii"))
    with pytest.raises(SystemExit):
        main(["--help"])
    print("…")
    sys.stdout.flush()
    assert raw.getvalue().endswith(b"\\u2026\n")
    closed = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", sys.executable, "-m", "edge_agent.cli", "doctor"],
        cwd=ROOT,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )
    assert "Traceback" not in closed.stderr
