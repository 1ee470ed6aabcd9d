"""A device with a damaged or full disk: what runs keeps running, and somebody is told."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from fleet.repository.tuf_repository import Repository
from tests.agent.conftest import Bench
from tests.agent.test_agent_alone import in_small_file_system


@pytest.fixture
def installed(bench: Bench) -> Bench:
    """A device that runs 1.0.0 and was stopped."""
    assert bench.install(bench.bundle()).returncode == 0
    agent = bench.start()
    bench.wait("the commit", lambda: ("active", "A", "1.0.0") in bench.facts())
    bench.stop(agent)
    (bench.home / "predictions.jsonl").unlink(missing_ok=True)
    (bench.home / "agent.log").unlink()
    return bench


@pytest.mark.parametrize("damaged", ["trust/trusted.json", "device-key.pem"])
def test_damaged_trust_or_key_stops_updates_and_no_inference(
    installed: Bench, damaged: str
) -> None:
    bench = installed
    path = bench.state / damaged
    path.write_bytes(bytes(byte ^ 0x5A for byte in path.read_bytes()))
    before = path.read_bytes()
    agent = bench.start()
    bench.wait("answers", lambda: len(bench.predictions()) > 30)
    assert bench.predictions()[-1]["model_version"] == "1.0.0"
    log = (bench.home / "agent.log").read_text()
    assert damaged.split("/")[-1] in log
    assert "Traceback" not in log
    status = bench.wait("the status", bench.status)
    assert damaged.split("/")[-1] in status["last_refusal"] + status["link"]["reason"]
    if damaged.startswith("trust"):
        refused = bench.install(bench.bundle("1.1.0"))
        assert refused.returncode == 4
        assert "what runs keeps running" in refused.stderr
    assert bench.stop(agent) == 0
    assert path.read_bytes() == before


def test_a_root_file_that_is_gone_or_wrong_stops_no_inference(
    installed: Bench, tmp_path: Path
) -> None:
    bench = installed
    root = bench.home / "root.json"
    good = root.read_bytes()
    (bench.home / "1.1.0").mkdir()
    new = bench.bundle("1.1.0")
    stranger = Repository(tmp_path / "stranger", "test", time.time)
    stranger.initialise()
    for found, said in (
        (b"[device]", "expected the fleet's root of trust"),
        (stranger.root_bytes(), "another repository"),
        (None, "the root that was kept of it counts"),
    ):
        root.unlink()
        if found is not None:
            root.write_bytes(found)
        (bench.home / "predictions.jsonl").unlink(missing_ok=True)
        (bench.home / "agent.log").write_text("")
        agent = bench.start()
        bench.wait("answers", lambda: len(bench.predictions()) > 10)
        log = (bench.home / "agent.log").read_text()
        assert [line for line in log.splitlines() if " ERROR " in line and said in line], log
        status = bench.wait("the status", bench.status)
        root.write_bytes(good)
        if found is not None:
            assert said in status["last_refusal"]
            refused = bench.install(new)
            assert refused.returncode == 4
            assert said in refused.stderr
            assert "what runs keeps running" in refused.stderr
        else:
            assert bench.install(new).returncode == 0, "the kept anchor has not lost a thing"
        assert bench.stop(agent) == 0


def test_a_slot_that_was_lost_is_said_and_never_told_as_committed(installed: Bench) -> None:
    bench = installed
    (bench.state / "slots" / "A" / "files" / "model.json").write_bytes(b"")
    agent = bench.start()
    status = bench.wait("the status", bench.status)
    assert status["active_digest"] == ""
    bench.wait("a word", lambda: "WARNING update:" in (bench.home / "agent.log").read_text())
    assert "committed" not in (bench.home / "agent.log").read_text()
    bench.stop(agent)


def test_a_disk_that_fills_up_under_a_running_agent_stops_no_inference(installed: Bench) -> None:
    bench = installed
    kept = bench.home / "kept"
    bench.state.rename(kept)
    bench.bundle("1.1.0")
    client = f"{sys.executable} -m edge_agent.cli"
    script = (
        f"cp -a {kept}/. {bench.state}/;"
        f" {client} run --config {bench.config} >{bench.home}/agent.log 2>&1 & agent=$!;"
        f" until grep -q class_id {bench.home}/predictions.jsonl 2>/dev/null; do sleep 0.2; done;"
        f" cat /dev/zero > {bench.state}/full 2>/dev/null;"
        f" timeout 30 {client} install {bench.home}/1.1.0/bundle --trust {bench.home}/root.json"
        f" --state-dir {bench.state} >/dev/null 2>{bench.home}/refused;"
        f" echo refused $?; {client} hold --state-dir {bench.state} >/dev/null 2>&1;"
        f" wc -l <{bench.home}/predictions.jsonl; sleep 3; wc -l <{bench.home}/predictions.jsonl;"
        f" kill -TERM $agent; wait $agent; echo ended $?"
    )
    done = in_small_file_system(bench, "1m", script)
    words = done.stdout.split()
    log = (bench.home / "agent.log").read_text()
    assert "Traceback" not in log, log
    assert words[1] != "0"
    assert "Traceback" not in (bench.home / "refused").read_text()
    assert int(words[3]) > int(words[2]) + 60, log
    assert words[-2:] == ["ended", "0"], log


def test_a_device_that_starts_on_a_full_disk_runs_what_is_installed(installed: Bench) -> None:
    bench = installed
    kept = bench.home / "kept"
    bench.state.rename(kept)
    answers = f"grep -c class_id {bench.home}/predictions.jsonl 2>/dev/null"
    script = (
        f"cp -a {kept}/. {bench.state}/;"
        f" cat /dev/zero > {bench.state}/full 2>/dev/null;"
        f" {sys.executable} -m edge_agent.cli run --config {bench.config}"
        f" >{bench.home}/agent.log 2>&1 & agent=$!; i=0;"
        f' until [ "$({answers} || echo 0)" -gt 30 ] || [ $i -gt 99 ]; do'
        " i=$((i+1)); sleep 0.1; done;"
        " kill -TERM $agent; wait $agent; echo ended $?"
    )
    done = in_small_file_system(bench, "2m", script)
    log = (bench.home / "agent.log").read_text()
    assert done.stdout.split()[-2:] == ["ended", "0"], log
    assert bench.predictions()[-1]["model_version"] == "1.0.0", log
    assert "No space left on device; what is installed runs all the same" in log
    assert "Traceback" not in log


def test_a_device_that_starts_on_a_read_only_disk_runs_what_is_installed(
    installed: Bench,
) -> None:
    bench = installed
    kept = bench.home / "kept"
    bench.state.rename(kept)
    answers = f"grep -c class_id {bench.home}/predictions.jsonl 2>/dev/null"
    client = f"{sys.executable} -m edge_agent.cli"
    script = (
        f"cp -a {kept}/. {bench.state}/; mount -o remount,ro {bench.state};"
        f" {client} run --config {bench.config} >{bench.home}/agent.log 2>&1 & agent=$!; i=0;"
        f' until [ "$({answers} || echo 0)" -gt 30 ] || [ $i -gt 99 ]; do'
        " i=$((i+1)); sleep 0.1; done;"
        f" {client} status --state-dir {bench.state} 2>{bench.home}/asked; echo asked $?;"
        " kill -TERM $agent; wait $agent; echo ended $?"
    )
    done = in_small_file_system(bench, "8m", script)
    log = (bench.home / "agent.log").read_text()
    assert done.stdout.split() == ["asked", "7", "ended", "0"], log + done.stdout
    assert bench.predictions()[-1]["model_version"] == "1.0.0", log
    told = [line for line in log.splitlines() if " ERROR " in line]
    assert len(told) == 1, log
    assert "Read-only file system; what is installed runs all the same" in told[0]
    assert "telemetry is kept in memory alone" in told[0]
    assert "Traceback" not in log
    assert "listens to nobody" in (bench.home / "asked").read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("[mqtt]\nhost = 'h'\nresend_s = nan\n", "resend_s"),
        ("[mqtt]\nhost = 'h'\nreconnect_max_s = inf\n", "reconnect_max_s"),
        ("[mqtt]\nhost = ''\n", "host"),
    ],
)
def test_a_limit_that_is_no_number_is_refused(bench: Bench, words: str, named: str) -> None:
    bench.configure(words)
    done = bench.agent("run", "--config", bench.config)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("sample_hz", "nan"),
        ("alarms_per_device_year", "nan"),
        ("alarms_per_device_year", "inf"),
        ("window_s", "nan"),
        ("spool_cap_mb", "nan"),
        ("rate_hz", "nan"),
    ],
)
def test_no_setting_reads_as_off_because_it_is_no_number(
    bench: Bench, key: str, value: str
) -> None:
    text = bench.config.read_text()
    section = {"spool_cap_mb": "[telemetry]", "rate_hz": "[source]"}.get(key, "[drift]")
    lines: list[str] = []
    now = ""
    for line in text.splitlines():
        now = line if line.startswith("[") else now
        if not (now == section and line.startswith(f"{key} ")):
            lines.append(line)
        if line == section:
            lines.append(f"{key} = {value}")
    bench.config.write_text("\n".join(lines))
    done = bench.agent("run", "--config", bench.config)
    assert done.returncode == 2, done.stderr
    assert key in done.stderr


def test_an_installation_whose_client_left_does_not_bar_the_next(installed: Bench) -> None:
    import socket
    import time

    bench = installed
    agent = bench.start()
    bench.wait("the agent", bench.status)
    bench.agent("hold", "--state-dir", bench.state)
    bundle = bench.bundle("1.1.0")
    body = {
        "do": "install",
        "bundle": str(bundle),
        "trust": str(bench.home / "root.json"),
        "approval": "",
    }
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(bench.state / "agent.sock"))
        client.sendall(json.dumps(body).encode() + b"\n")
        bench.wait("the order waits", lambda: bench.status()["update"]["waiting"])
    time.sleep(0.5)
    assert bench.agent("release", "--state-dir", bench.state).returncode == 0
    again = bench.install(bench.bundle("1.2.0"))
    assert again.returncode == 0, again.stderr
    bench.stop(agent)


def test_an_odd_file_among_the_frames_stops_nothing(installed: Bench) -> None:
    import numpy as np

    bench = installed
    np.save(bench.home / "frames" / "000000.npy", np.zeros((0, 0), np.uint8))
    np.savez(bench.home / "frames" / "a", x=np.zeros(3))
    Path(bench.home / "frames" / "a.npz").rename(bench.home / "frames" / "000001a.npy")
    agent = bench.start()
    bench.wait("answers", lambda: sum("class_id" in line for line in bench.predictions()) > 200)
    bench.stop(agent)
    wrong = {line["frame"] for line in bench.predictions() if "class_id" not in line}
    assert wrong == {"000000.npy", "000001a.npy"}


def test_an_installation_that_no_journal_can_take_is_refused_at_once(bench: Bench) -> None:
    (bench.state / "update" / "journal").mkdir(parents=True)
    refused = bench.install(bench.bundle())
    assert refused.returncode == 1
    assert "digits 1.0.0 was not installed: the update journal" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_installing_twice_before_the_first_run_ends_with_the_second(bench: Bench) -> None:
    assert bench.install(bench.bundle()).returncode == 0
    second = bench.install(bench.bundle("1.1.0"), "--json")
    assert second.returncode == 0, second.stderr
    assert json.loads(second.stdout)["phase"] == "trial"
    assert "1.1.0" in json.loads(second.stdout)["text"]
    agent = bench.start()
    bench.wait("the commit", lambda: [f for f in bench.facts() if f[0] == "active"])
    bench.stop(agent)
    assert [f[2] for f in bench.facts() if f[0] == "active"] == ["1.1.0"]
