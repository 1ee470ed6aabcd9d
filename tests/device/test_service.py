"""The unit in a booted systemd: start, notify, restart, the watchdog on a hang, the sandbox."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from device_configs.service.unit import WATCHDOG_S
from edge_agent.cli import main
from examples.digits.render import render_frames, sources_of
from fleet.repository.tuf_repository import Repository
from tests.agent.bundles import digits_bundle
from tests.device.container import EXPOSURE_MAX, Arch, Container

pytestmark = [pytest.mark.device, pytest.mark.timeout(600)]

UNIT = "edge-agent"
HARDWARE = {"amd64": "generic-x86-64", "arm64": "raspberry-pi-4"}
CONFIG = """
[device]
fleet = "test"
id = "cam-1"
hardware = "{hardware}"
line = "digits"
state_dir = "{state}"
[trust]
root = "{root}"
[source]
kind = "directory"
path = "{frames}"
rate_hz = 30
[drift]
enabled = false
"""
DROP_IN = f"etc/systemd/system/{UNIT}.service.d/test.conf"
HANG_S = 6
"""The watchdog's interval in these tests: the unit's own is ten times that."""

PROBE = """#!/bin/sh
python3 -c 'import os; os.sched_setaffinity(0, os.sched_getaffinity(0))' 2>&1
exit 0
"""
"""A system call of @resources, which any account may use where no filter stands in the way."""


@pytest.fixture(params=["amd64", "arm64"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Container]:
    """A booted machine on which a bundle was installed as a person would, but not the service."""
    arch: Arch = request.param
    hardware = HARDWARE[arch]
    repository = Repository(tmp_path / "repository", "test", time.time)
    repository.initialise()
    root = tmp_path / "root.json"
    root.write_bytes(repository.root_bytes())
    digits_bundle(tmp_path / "1.0.0" / "bundle", "1.0.0")
    repository.publish(tmp_path / "1.0.0" / "bundle", approval=tmp_path / "1.0.0" / "approval.json")
    (tmp_path / "frames").mkdir()
    for number, frame in enumerate(render_frames(sources_of("test")[:30], seed=1)):
        np.save(tmp_path / "frames" / f"{number:04d}.npy", frame)
    config = tmp_path / "agent.toml"
    places = {"state": tmp_path / "state", "root": root, "frames": tmp_path / "frames"}
    config.write_text(CONFIG.format(hardware=hardware, **places))
    words = ["install", str(tmp_path / "1.0.0" / "bundle"), "--trust", str(root)]
    assert main([*words, "--config", str(config)]) == 0
    container = Container(arch, tmp_path)
    try:
        inside = {"state": "/var/lib/wherry", "root": "/etc/wherry/root.json", "frames": "/srv/f"}
        container.write("etc/wherry/agent.toml", CONFIG.format(hardware=hardware, **inside))
        container.write("etc/wherry/root.json", root.read_text())
        container.copy(tmp_path / "frames", "srv/f")
        # Sockets and locks of the installation stay behind, as on a copied card.
        ignore = shutil.ignore_patterns("*.sock", "agent.lock")
        shutil.copytree(tmp_path / "state", container.root / "var/lib/wherry", ignore=ignore)
        yield container
    finally:
        container.close()


def answered(machine: Container) -> int:
    """Frames answered so far, as ``systemctl status`` shows them."""
    text = machine.show(UNIT, "StatusText")["StatusText"]
    return int(text.rsplit(", ", 1)[-1].split()[0]) if "answered" in text else -1


def test_the_service_starts_restarts_and_is_ended_when_it_hangs(machine: Container) -> None:
    machine.write(DROP_IN, f"[Service]\nWatchdogSec={HANG_S}\n")
    machine.run("edge-agent", "install-service")
    machine.wait(UNIT, lambda unit: "runs digits 1.0.0" in unit["StatusText"], 60)
    first = machine.show(UNIT, "MainPID", "NRestarts", "ActiveState")
    assert (first["ActiveState"], first["NRestarts"]) == ("active", "0")
    machine.wait(UNIT, lambda unit: answered(machine) > 0, 60)
    owner = machine.run("stat", "-c", "%u", f"/proc/{first['MainPID']}").strip()
    assert owner not in ("0", ""), "an account of its own"
    assert machine.exposure(UNIT) <= EXPOSURE_MAX

    machine.run("systemctl", "kill", "--signal=KILL", UNIT)
    machine.wait(UNIT, lambda u: u["NRestarts"] == "1" and "runs digits" in u["StatusText"], 60)

    machine.run("mkfifo", "-m", "666", "/srv/f/00.npy")  # a driver that never answers
    machine.wait(UNIT, lambda unit: unit["NRestarts"] == "2", 10 * HANG_S + WATCHDOG_S)
    assert "Watchdog timeout" in machine.journal(UNIT)
    machine.run("rm", "/srv/f/00.npy")
    machine.wait(UNIT, lambda unit: answered(machine) > 0, 90)

    status = json.loads(machine.run("edge-agent", "status", "--json"))
    assert status["model_version"] == "1.0.0"
    machine.run("edge-agent", "install-service", "--remove")
    assert machine.show(UNIT, "LoadState")["LoadState"] == "not-found"
    assert (machine.root / "var/lib/private/wherry/slots").is_dir(), "its state stays"


@pytest.mark.parametrize("machine", ["amd64"], indirect=True)
def test_a_system_call_outside_of_the_filter_is_refused(machine: Container) -> None:
    """The probe runs before the agent, in the unit's own sandbox; the control runs outside."""
    machine.write("usr/local/bin/probe", PROBE, mode=0o755)
    machine.write(DROP_IN, "[Service]\nExecStartPre=/usr/local/bin/probe\n")
    outside = machine.run(
        "systemd-run", "--quiet", "--wait", "--pipe", "--property=DynamicUser=yes",
        "/usr/local/bin/probe",
    )  # fmt: skip
    assert "Operation not permitted" not in outside
    machine.run("edge-agent", "install-service")
    assert "Operation not permitted" in machine.journal(UNIT)
    machine.wait(UNIT, lambda unit: answered(machine) > 0, 60)


def test_nothing_of_this_tier_is_left_out_under_ci() -> None:
    assert os.geteuid() == 0 or os.environ.get("CI") != "true"
