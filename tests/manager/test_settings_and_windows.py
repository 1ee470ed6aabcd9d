"""Windows and settings from an operator's command to a device: ``edge-fleet up`` and ``edge-agent
run`` as processes, a broker between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from examples.digits.frames import write_frames
from fleet.repository.tuf_repository import Repository
from tests.agent.bundles import digits_bundle
from tests.agent.conftest import Bench
from tests.manager.simulated_device import FLEET, wait_until
from tests.manager.test_command_line import Up, edge_fleet, up

__all__ = ["up"]


class Site:
    """A running fleet with one version, and a device beside it."""

    def __init__(self, running: Up, home: Path) -> None:
        self.running = running
        self.state = running.state
        repository = Repository(self.state, FLEET, time.time)
        self.bench = Bench(home / "device", repository)
        self.bench.home.mkdir()
        edge_fleet("root", "--out", self.bench.home / "root.json", state=self.state)
        write_frames(self.bench.home / "frames", count=60, seed=1)
        self.config()

    def config(self, extra: str = "") -> None:
        mqtt = f'[mqtt]\nhost = "127.0.0.1"\nport = {self.running.port}\n'
        self.bench.configure(f"{mqtt}{extra}", fleet=FLEET)

    def publish(self, version: str) -> None:
        digits_bundle(self.bench.home / version, version)
        edge_fleet("publish", self.bench.home / version, state=self.state)

    def device(self) -> dict[str, Any]:
        rows = edge_fleet("devices", state=self.state)
        return dict(rows[0]) if rows else {}

    def until(self, what: str, ready: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
        found = self.bench.wait(what, lambda: (row := self.device()) and ready(row) and row)
        return dict(found)

    def settings(self) -> dict[str, tuple[Any, str]]:
        rows = self.bench.status().get("configuration", [])
        return {row["name"]: (row["value"], row["from"]) for row in rows}


@pytest.fixture
def site(up: Callable[..., Up], tmp_path: Path) -> Any:
    made = Site(up(), tmp_path)
    yield made
    for process in made.bench.processes:
        process.kill()
        process.wait()


def hours(begin_s: float, end_s: float) -> str:
    return "-".join(time.strftime("%H:%M", time.gmtime(at_s)) for at_s in (begin_s, end_s))


def test_a_device_waits_for_the_window_says_until_when_and_installs_in_it(site: Site) -> None:
    site.publish("1.0.0")
    site.bench.start("tests.agent.synchronised")
    site.until("the device", lambda row: row["online"])
    now_s = time.time()
    shut, opens_s = hours(now_s + 7200, now_s + 10800), (now_s + 7200) // 60 * 60
    start = ("rollout", "start", "digits", "1.0.0", "--trial-s", "1", "--frames-min", "20")
    plan = edge_fleet(*start, "--window", shut, "--dry-run", state=site.state)
    assert plan["window"] == shut
    assert f"--window {shut}" in plan["command"]
    assert f"installs only {shut} UTC" in plan["text"]
    rollout = edge_fleet(*start, "--window", shut, state=site.state)
    assert (rollout["window"], rollout["opens_at_s"]) == (shut, opens_s)

    def waits() -> dict[str, Any] | None:
        status = edge_fleet("rollout", "status", rollout["id"], state=site.state)
        return status if status["devices"][0]["waits_for"] else None

    status = site.bench.wait("the wait", waits)
    assert status["status"] == "running"
    (device,) = status["devices"]
    assert device["waits_for"] == f"the order's window is {shut} UTC"
    assert device["opens_at_s"] == opens_s
    opens = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(opens_s))
    told = edge_fleet("rollout", "status", rollout["id"], state=site.state, as_json=False)
    assert f"installs only {shut} UTC, opens {opens}" in told
    assert f"waits: the order's window is {shut} UTC (next {opens})" in told
    lines = site.bench.agent("status", "--state-dir", site.bench.state).stdout
    from_when = opens.removesuffix(" UTC")
    assert f"waits: the order's window is {shut} UTC, open from {from_when}" in lines

    edge_fleet("rollout", "abort", rollout["id"], "--reason", "sooner", state=site.state)
    now = ("--window", hours(now_s - 3600, now_s + 3600), "--wait", "--timeout-s", "30")
    assert edge_fleet(*start, *now, state=site.state)["status"] == "completed"


def test_settings_reach_a_device_stay_over_a_kill_and_come_to_one_that_was_away(
    site: Site,
) -> None:
    site.publish("1.0.0")  # with the first version a device learns who its directors are
    agent = site.bench.start()
    site.until("the device", lambda row: row["online"])
    wish = ("telemetry.window_s=2", "log.level=debug", "update.temperature_max_c=150")
    dry = edge_fleet("configure", "cam-1", *wish, "--dry-run", state=site.state)
    assert dry[0]["after"]["telemetry.window_s"] == 2.0
    assert site.device()["configuration"]["status"] == "none"
    edge_fleet("configure", "cam-1", *wish, state=site.state)
    row = site.until("the settings", lambda row: row["configuration"]["status"] == "applied")
    assert row["configuration"]["wanted"]["update.temperature_max_c"] == 150.0
    assert row["configuration"]["has"]["update.temperature_max_c"] == 85.0
    assert row["configuration"]["limited"] == ["update.temperature_max_c"]
    told = edge_fleet("devices", "cam-1", state=site.state, as_json=False)
    assert "setting:   telemetry.window_s 2.0, wanted 2.0" in told
    assert "85.0, wanted 150.0 (its own limit is stricter)" in told
    lines = site.bench.agent("status", "--state-dir", site.bench.state).stdout
    assert "settings   log.level debug (fleet, configuration 1.1)" in lines
    assert "update.temperature_max_c 85.0 (device, stricter than the fleet's 150.0)" in lines
    assert "drift.window_s 2.0 (device)" in lines

    agent.kill()
    agent.wait()
    wait_until(lambda: not site.device()["online"], 20, "for the will")
    edge_fleet("configure", "--all", "telemetry.window_s=3", state=site.state)
    assert site.device()["configuration"]["status"] == "waiting"
    site.running.process.send_signal(19)  # SIGSTOP: the manager says nothing, the broker does
    try:
        site.bench.start()
        kept = site.bench.wait("the agent", site.settings)
        assert kept["log.level"] == ("debug", "fleet")
        site.bench.wait("what came", lambda: site.settings()["telemetry.window_s"][0] == 3.0)
    finally:
        site.running.process.send_signal(18)
    site.until("the news", lambda row: row["configuration"]["status"] == "applied")
    site.bench.stop(site.bench.processes[-1])

    root = site.bench.home / "root.json"
    text = site.bench.config.read_text()
    forbids = text.replace(f'root = "{root}"', f'root = "{root}"\nremote_config = false')
    site.bench.config.write_text(forbids)
    site.bench.start()
    row = site.until("the no", lambda row: row["configuration"]["status"] == "refused")
    assert "forbids remote configuration" in row["configuration"]["reason"]
    assert row["configuration"]["has"]["telemetry.window_s"] == 1.0
