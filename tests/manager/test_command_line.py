"""``edge-fleet`` as people run it: real processes, real signals, exit codes and JSON."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from edge_contract.digest import digest_of, hex_of
from edge_contract.health import HealthSpec
from edge_contract.signing import public_bytes
from fleet.cli import main
from fleet.clock import SystemClock
from fleet.manager.rollout_order import RolloutOrder, command_line, parse_waves
from fleet.manager.state_dir import ApiAddress, StateDir
from fleet.repository.tuf_repository import Repository
from fleet.rollout.gate import Gate
from tests.manager.bundles import make_bundle
from tests.manager.conftest import free_port
from tests.manager.simulated_device import FLEET, SimulatedDevice, wait_until

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-c", "from fleet.cli import main; main(prog_name='edge-fleet')"]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}


def edge_fleet(*words: str | Path | int, state: Path, code: int = 0, as_json: bool = True) -> Any:
    """Run one command to its end, in this process; its JSON, or its text."""
    out = io.StringIO()
    arguments = [*map(str, words), "--state", str(state)]
    with contextlib.redirect_stdout(out), pytest.raises(SystemExit) as ended:
        main([*arguments, "--json"] if as_json else arguments, prog_name="edge-fleet")
    assert ended.value.code == code, f"{words}: {out.getvalue()}"
    return json.loads(out.getvalue()) if as_json else out.getvalue()


class Up:
    """A running ``edge-fleet up`` on the embedded broker."""

    def __init__(self, state: Path, *words: str) -> None:
        self.state = state
        self.port = free_port()
        self.process = subprocess.Popen(
            [
                *(*PROGRAM, "up", "--state", str(state), "--mqtt-port", str(self.port)),
                *("--console-port", "0", "--broker", "embedded", "--json", *words),
            ],
            cwd=ROOT,
            env=ENVIRONMENT,
            stdout=subprocess.PIPE,
            stderr=(state.parent / "up.log").open("w"),
            text=True,
        )
        assert self.process.stdout is not None
        self.said = json.loads(self.process.stdout.readline())

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(15)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return code


@pytest.fixture
def up(tmp_path: Path) -> Iterator[Callable[..., Up]]:
    started: list[Up] = []

    def start(*words: str) -> Up:
        started.append(Up(tmp_path / "state", *words))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.end()


def director_of(state: Path) -> bytes:
    return public_bytes(Repository(state, FLEET, SystemClock().wall_s).director_key())


def test_a_fleet_from_nothing_to_a_finished_rollout(up: Callable[..., Up], tmp_path: Path) -> None:
    running = up()
    state = running.state
    assert (running.said["fleet"], running.said["broker_kind"]) == ("home", "embedded")
    assert "text/html" in httpx.get(running.said["url"], trust_env=False).headers["content-type"]
    wait_until(lambda: edge_fleet_ok(state))
    bundle = make_bundle(tmp_path, "1.0.0")
    approval = tmp_path / "approval.json"
    published = edge_fleet("publish", bundle, "--approval", approval, state=state)
    assert (published["line"], published["already_published"]) == ("digits", False)
    assert json.loads(approval.read_bytes())["line"] == "digits"
    assert edge_fleet("publish", bundle, state=state)["already_published"] is True
    root = edge_fleet("root", "--out", tmp_path / "root.json", state=state)["root"]
    assert root["signed"]["_type"] == "root"
    assert json.loads((tmp_path / "root.json").read_bytes()) == root

    device = SimulatedDevice("cam-1", running.port, director_of(state)).connect()
    device.until_enrolled()
    (row,) = wait_until(lambda: edge_fleet("devices", state=state))
    assert (row["device"], row["online"]) == ("cam-1", True)
    start = ("rollout", "start", "digits", "1.0.0", "--trial-s", "3", "--soak-s", "0")
    plan = edge_fleet(*start, "--dry-run", state=state)
    assert plan["eligible_count"] == 1
    assert "--trial-s 3" in plan["command"]
    assert edge_fleet("rollout", "status", state=state) == []
    rollout = edge_fleet(*start, state=state)["id"]
    device.install(device.order())
    done = edge_fleet("rollout", "status", rollout, "--wait", "--timeout-s", "20", state=state)
    assert (done["status"], done["committed_count"]) == ("completed", 1)
    assert device.order().health.trial_s == 3.0
    told = edge_fleet("rollout", "status", rollout, state=state, as_json=False)
    assert "Completed: 1 of 1 devices run 1.0.0" in told
    assert "1.0.0" in edge_fleet("devices", state=state, as_json=False)
    assert edge_fleet("devices", "cam-1", state=state)["device"]["version"] == "1.0.0"
    assert edge_fleet("drift", state=state)[0]["problem"]

    message = edge_fleet(
        "subscribe",
        "edge/v1/home/cam-1/desired/+",
        "--count",
        "1",
        "--timeout-s",
        "10",
        state=state,
    )
    assert message["payload"]["version"] == "1.0.0"
    assert message["retained"] is True
    device.disconnect()
    assert running.end() == 0
    assert not (state / "api.json").exists()
    assert not (state / "token").exists()


def test_what_all_may_pull_is_one_limit_for_mqtt_and_http(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    port = free_port()
    running = up("--transfer-max-mb-s", "4", "--blob-http", f"127.0.0.1:{port}")
    weights = os.urandom(6_000_000)
    layer = digest_of(weights)
    edge_fleet("publish", make_bundle(tmp_path, "1.0.0", weights=weights), state=running.state)
    device = SimulatedDevice("cam-1", running.port, director_of(running.state)).connect()
    device.until_enrolled()
    edge_fleet("rollout", "start", "digits", "1.0.0", state=running.state)
    device.order()
    began_s = time.monotonic()
    got = httpx.get(f"http://127.0.0.1:{port}/{hex_of(layer)}", trust_env=False).content
    assert got == weights
    assert time.monotonic() - began_s >= 0.45, "4 MB at once, and 2 at 4 MB/s"
    began_s = time.monotonic()
    device.ask(layer, [(0, 45)], 65_536)
    wait_until(lambda: len(device.blocks) == 46, what="for 3 MB over MQTT")
    assert time.monotonic() - began_s >= 0.6
    device.disconnect()
    assert running.end() == 0


def edge_fleet_ok(state: Path) -> bool:
    health = StateDir(state)
    return health.is_locked() and (state / "api.json").exists()


def test_a_bad_version_ends_the_wait_with_6_and_silence_with_5_or_7(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    running = up()
    state = running.state
    device = SimulatedDevice("cam-1", running.port, director_of(state)).connect()
    device.until_enrolled()
    for version in ("1.0.0", "1.0.1", "1.0.2"):
        edge_fleet("publish", make_bundle(tmp_path, version), state=state)
    start = ("rollout", "start", "digits")
    waiting = subprocess.Popen(
        [*PROGRAM, *start, "1.0.0", "--wait", "--state", str(state), "--json"],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
    )
    device.fail(device.order())
    out, _ = waiting.communicate(timeout=20)
    assert waiting.returncode == 6
    assert "golden vectors differ" in json.loads(out)["reason"]
    late = ("--wave-deadline-s", "1", "--wait")
    paused = edge_fleet(*start, "1.0.1", *late, state=state, code=5)
    assert paused["outcome"] == "insufficient"
    edge_fleet("rollout", "abort", paused["id"], "--reason", "enough", state=state)
    error = edge_fleet(*start, "1.0.2", "--wait", "--timeout-s", "0.5", state=state, code=7)
    assert "still running after 0.5 s" in error["error"]
    running.end(signal.SIGINT)
    device._client.disconnect()
    device._client.loop_stop()


def test_a_second_manager_and_a_taken_port_are_refused(
    up: Callable[..., Up], tmp_path: Path
) -> None:
    running = up("--fleet", "shop", "--no-console")
    assert httpx.get(running.said["url"], trust_env=False).status_code == 404
    second = edge_fleet("up", "--console-port", "0", state=running.state, code=1)
    assert "a manager runs on" in second["error"]
    assert str(running.process.pid) in second["error"]
    port = running.said["url"].rsplit(":", 1)[1]
    other = tmp_path / "other"
    taken = edge_fleet("up", "--console-port", port, state=other, code=7)
    assert "--console-port" in taken["hint"]
    taken = edge_fleet(
        "up", "--console-port", "0", "--mqtt-port", running.port, "--broker", "embedded",
        state=other, code=7,
    )  # fmt: skip
    assert f"port {running.port}" in taken["error"]
    assert running.end() == 0
    named = edge_fleet("up", "--fleet", "away", state=running.state, code=2)
    assert "belongs to the fleet 'shop'" in named["error"]


def test_the_broker_is_started_again_when_it_dies(up: Callable[..., Up]) -> None:
    running = up()
    pid_file = running.state / "broker" / "broker.pid"
    pid = int(pid_file.read_text())
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: int(pid_file.read_text()) != pid, what="for a new broker")
    device = SimulatedDevice("cam-1", running.port, director_of(running.state)).connect()
    device.until_enrolled()
    device.disconnect()
    assert running.end() == 0
    assert "the broker has died" in (running.state.parent / "up.log").read_text()


def test_without_a_manager_the_next_command_is_named(tmp_path: Path) -> None:
    state = tmp_path / "state"
    for words in (("devices",), ("rollout", "status"), ("subscribe",)):
        error = edge_fleet(*words, state=state, code=7)
        assert error["hint"] == f"start one: edge-fleet up (with --state {state})"
    checks = edge_fleet("doctor", state=state, code=7)
    assert [check["check"] for check in checks["checks"] if not check["ok"]] == [
        "state directory",
        "manager",
    ]
    # A manager that was killed leaves its address behind; nobody is there all the same.
    directory = StateDir(state)
    directory.prepare()
    os.close(directory.lock())
    directory.make_token()
    directory.announce(ApiAddress(url="http://127.0.0.1:1", pid=1, fleet="home", broker=""))
    assert "no manager runs" in edge_fleet("devices", state=state, code=7)["error"]


@pytest.mark.parametrize(
    "words",
    [
        "root",
        "key status",
        "key forget",
        "key rotate snapshot",
        "line list",
        "audit show",
        "event list",
        "media prepare draft.json",
        "backup fleet.backup",
        "broker config --server server --out broker",
        "broker crl --out crl.pem",
        "export digits 1.0.0 --usb . --devices cam-1",
        "devices",
    ],
)
@pytest.mark.parametrize("there", [False, True], ids=["nothing-there", "an-empty-directory"])
def test_a_mistyped_state_directory_makes_no_fleet(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, there: bool
) -> None:
    monkeypatch.setenv("EDGE_FLEET_PASSPHRASE", "words")
    monkeypatch.chdir(tmp_path)
    typo = tmp_path / "typo"
    if there:
        typo.mkdir()
    error = edge_fleet(*words.split(), state=typo, code=7 if words == "devices" else 3)
    assert str(typo) in error["error"]
    assert "edge-fleet up" in error["hint"]
    assert [str(path) for path in tmp_path.rglob("*")] == [str(typo)] * there


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("rollout", "start", "digits"), 2),
        (("rollout", "start", "digits", "1.0.0", "--soak-s", "off"), 2),
        (("rollout", "start", "digits", "1.0.0", "--quorum-share", "1"), 2),
        (("rollout", "start", "digits", "1.0.0", "--waves", "50%,10"), 2),
        (("rollout", "start", "digits", "1.0.0", "--trial-s", "0"), 2),
        (("rollout", "start", "digits", "1.0.0", "--window", "2-5"), 2),
        (("rollout", "start", "digits", "1.0.0", "--window", "02:00-02:00"), 2),
        (("rollout", "start", "digits", "1.0.0", "--window", "02:00-25:00"), 2),
        (("configure", "telemetry.window_s=5"), 2),
        (("configure", "cam-1"), 2),
        (("configure", "cam-1", "--all", "log.level=info"), 2),
        (("configure", "cam-1", "log.level=loud"), 2),
        (("configure", "cam-1", "telemetry.window_s=5", "telemetry.window_s=6"), 2),
        (("configure", "--all", "source.path=/"), 2),
        (("configure", "--all", "--unset", "source.path"), 2),
        (("configure", "--all", "log.level=info", "--unset", "log.level"), 2),
        (("rollout", "abort", "digits-1.0.0"), 2),
        (("publish", "nowhere"), 3),
        (("up", "--broker", "amqp://x"), 2),
        (("devices", "--dance"), 2),
    ],
)
def test_usage_errors_are_json_too(tmp_path: Path, words: tuple[str, ...], code: int) -> None:
    error = edge_fleet(*words, state=tmp_path / "state", code=code)
    assert set(error) == {"error", "code", "hint", "docs"}
    assert error["code"] == code


def test_the_token_is_for_the_owner_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    state.prepare()
    os.umask(os.umask(0))
    token = state.make_token()
    assert len(token) >= 32
    assert (state.path / "token").stat().st_mode & 0o777 == 0o600
    assert state.path.stat().st_mode & 0o777 == 0o700


def test_an_order_as_a_command_is_the_same_order() -> None:
    order = RolloutOrder(
        line="digits",
        version="1.0.0",
        counts=[1, 5],
        gate=Gate(max_failures_share=0.02, soak_s=90.0, wave_deadline_s=1e6),
        health=HealthSpec(frames_min=1_000_000, latency_ratio_max=1.5, deadline_s=9000.5),
        devices=["cam-1"],
        on_abort="return",
        seed="x y",
    )
    assert command_line(order) == (
        "edge-fleet rollout start digits 1.0.0 --waves 1,5,100% --max-failures-share 2%"
        " --soak-s 90 --wave-deadline-s 1000000 --frames-min 1000000 --latency-ratio 1.5"
        " --trial-deadline-s 9000.5 --on-abort return --device cam-1 --seed 'x y'"
    )


def test_waves_read_as_people_write_them() -> None:
    assert parse_waves("1%, 10%,100%") == ([0.01, 0.1, 1.0], None)
    assert parse_waves("100%") == ([1.0], None)
    assert parse_waves("1,5,100%") == (None, [1, 5])
    assert parse_waves("3") == (None, [3])
