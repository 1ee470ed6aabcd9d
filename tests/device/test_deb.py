"""The Debian package in a booted machine: installed, run, and upgraded with its state kept."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from edge_agent.cli import main
from examples.digits.render import render_frames, sources_of
from fleet.repository.tuf_repository import Repository
from tests.agent.bundles import digits_bundle
from tests.device.board import ROOT, leave_out
from tests.device.container import Container
from tests.device.test_service import CONFIG, UNIT, answered

pytestmark = [pytest.mark.device, pytest.mark.timeout(900)]

HARDWARE = "generic-x86-64"


def build(out: Path, version: str, arch: str = "amd64") -> Path:
    """One package, hardly compressed."""
    if shutil.which("dpkg-deb") is None:
        leave_out("a Debian package needs dpkg-deb")
    done = subprocess.run(
        [
            sys.executable, ROOT / "packaging/deb/build.py", "--arch", arch, "--out", out,
            "--version", version, "--level", "0",
        ],
        capture_output=True, text=True, check=False,
        env={**os.environ, "SOURCE_DATE_EPOCH": "1700000000"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return Path(done.stdout.strip())


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Container]:
    """A booted machine with a configuration and a model on trial, without any agent."""
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
    config.write_text(CONFIG.format(hardware=HARDWARE, **places))
    words = ["install", str(tmp_path / "1.0.0" / "bundle"), "--trust", str(root)]
    assert main([*words, "--config", str(config)]) == 0
    container = Container("amd64", tmp_path)
    try:
        (container.root / "usr/local/bin/edge-agent").unlink()
        inside = {"state": "/var/lib/wherry", "root": "/etc/wherry/root.json", "frames": "/srv/f"}
        container.write("etc/wherry/agent.toml", CONFIG.format(hardware=HARDWARE, **inside))
        container.write("etc/wherry/root.json", root.read_text())
        container.copy(tmp_path / "frames", "srv/f")
        ignore = shutil.ignore_patterns("*.sock", "agent.lock")
        shutil.copytree(tmp_path / "state", container.root / "var/lib/wherry", ignore=ignore)
        (container.root / "var/lib/dpkg/updates").mkdir(parents=True, exist_ok=True)
        container.write("var/lib/dpkg/status", "")
        yield container
    finally:
        container.close()


def install(machine: Container, package: Path) -> None:
    """With dpkg, and nothing from a network. The machine was unpacked without dpkg's knowledge, so
    that the packages depended on are there and dpkg cannot know it."""
    shutil.copy(package, machine.root / "root" / package.name)
    machine.run("dpkg", "--force-depends", "--install", f"/root/{package.name}", timeout_s=300)


def test_the_package_installs_runs_and_is_upgraded_with_state_and_model_kept(
    machine: Container, tmp_path: Path
) -> None:
    install(machine, build(tmp_path / "deb", "0.1.0"))
    machine.wait(UNIT, lambda unit: "runs digits 1.0.0" in unit["StatusText"], 120)
    machine.wait(UNIT, lambda unit: answered(machine) > 0, 60)
    program = machine.run("readlink", "-f", "/usr/bin/edge-agent").strip()
    assert program == "/opt/wherry/bin/edge-agent"
    where = machine.run("/opt/wherry/bin/python3", "-c", "import numpy; print(numpy.__file__)")
    assert where.startswith("/opt/wherry/lib/python3.11/site-packages/")

    def status() -> dict[str, object]:
        found: dict[str, object] = json.loads(machine.run("edge-agent", "status", "--json"))
        return found

    def committed(unit: dict[str, str]) -> bool:
        return bool(status()["active_digest"])

    machine.wait(UNIT, committed, 90)
    before = status()
    key = machine.run("sha256sum", "/var/lib/wherry/device-key.pem")
    install(machine, build(tmp_path / "deb", "0.1.1"))
    machine.wait(UNIT, lambda unit: "runs digits 1.0.0" in unit["StatusText"], 120)
    machine.wait(UNIT, lambda unit: answered(machine) > 0, 60)
    after = status()
    for name in ("active_digest", "active_slot", "device_key", "model_version"):
        assert after[name] == before[name], name
    assert machine.run("sha256sum", "/var/lib/wherry/device-key.pem") == key
    told = machine.run("dpkg-query", "--show", "--showformat=${Version} ${Status}", "wherry-agent")
    assert told == "0.1.1 install ok installed"
    assert "crash" not in machine.journal(UNIT), "an upgrade is a stop in order"

    machine.run("dpkg", "--remove", "wherry-agent")
    assert machine.show(UNIT, "LoadState")["LoadState"] == "not-found"
    assert (machine.root / "var/lib/private/wherry/slots/A").is_dir(), "its state stays"
    assert not (machine.root / "opt/wherry/bin").exists()


def test_the_same_checkout_gives_the_same_bytes_and_arm64_is_built_here_as_well(
    tmp_path: Path,
) -> None:
    digests = set()
    for number in range(2):
        package = build(tmp_path / str(number), "0.1.0", "arm64")
        digests.add(hashlib.sha256(package.read_bytes()).hexdigest())
    assert len(digests) == 1
    listing = subprocess.run(
        ["dpkg-deb", "--contents", package], capture_output=True, text=True, check=True
    ).stdout
    assert "/opt/wherry/bin/python3 -> /usr/bin/python3.11" in listing
    assert "aarch64-linux-gnu.so" in listing
    assert "x86_64" not in listing
    assert "/etc/wherry/agent.toml.example" in listing
