"""The manager's unit in a booted systemd, and root working in its directory beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.device.board import fleet_packages
from tests.device.container import EXPOSURE_MAX, Container

pytestmark = [pytest.mark.device, pytest.mark.timeout(600)]

UNIT = "edge-fleet"
STATE = "/var/lib/wherry-fleet"
LAUNCHER = "#!/usr/bin/python3.11\nfrom fleet.cli import main\nmain()\n"


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Container]:
    """A booted machine on which the manager's command is installed."""
    container = Container("amd64", tmp_path)
    try:
        container.copy(fleet_packages("amd64"), "opt/wherry/fleet")
        # The embedded broker is a child with the same interpreter.
        site = "usr/local/lib/python3.11/dist-packages/wherry.pth"
        container.write(site, "/opt/wherry/source\n/opt/wherry/fleet\n")
        container.write("usr/bin/edge-fleet", LAUNCHER, mode=0o755)
        yield container
    finally:
        container.close()


def ready(unit: dict[str, str]) -> bool:
    return unit["ActiveState"] == "active" and "console at" in unit["StatusText"]


def test_the_manager_starts_restarts_and_is_restored_with_root_working_beside_it(
    machine: Container,
) -> None:
    def fleet(*words: str) -> str:
        return machine.run("edge-fleet", *words, "--state", STATE)

    def of_root() -> str:
        return machine.run("find", "/var/lib/private/wherry-fleet", "-user", "root")

    fleet("install-service", "--broker", "embedded")
    machine.wait(UNIT, ready, 60)
    first = machine.show(UNIT, "MainPID")
    owner = machine.run("stat", "-c", "%u", f"/proc/{first['MainPID']}").strip()
    assert owner not in ("0", ""), "an account of its own"
    assert machine.exposure(UNIT) <= EXPOSURE_MAX

    # What root does, the service can read: while it runs, and while it does not.
    fleet("key", "rotate", "director")
    assert of_root() == ""
    machine.run("systemctl", "kill", "--signal=KILL", UNIT)
    machine.wait(UNIT, lambda unit: unit["NRestarts"] == "1" and ready(unit), 60)
    machine.run("systemctl", "stop", UNIT)
    fleet("key", "rotate", "audit")
    assert of_root() == ""
    machine.run("systemctl", "start", UNIT)
    machine.wait(UNIT, ready, 60)

    machine.write("root/passphrase", "correct horse battery\n")
    fleet("backup", "/root/backup", "--passphrase-file", "/root/passphrase")
    rows = json.loads(fleet("key", "status", "--json"))
    machine.run("systemctl", "stop", UNIT)
    machine.run("mv", "/var/lib/private/wherry-fleet", "/var/lib/private/lost")
    fleet("restore", "/root/backup", "--passphrase-file", "/root/passphrase")
    machine.run("systemctl", "start", UNIT)
    machine.wait(UNIT, ready, 60)
    assert of_root() == ""
    again = json.loads(fleet("key", "status", "--json"))
    assert [row["keyids"] for row in again] == [row["keyids"] for row in rows]
    assert "trouble" not in fleet("doctor")

    fleet("install-service", "--broker", "embedded")
    machine.wait(UNIT, ready, 60)
    machine.run("edge-fleet", "install-service", "--remove")
    assert machine.show(UNIT, "LoadState")["LoadState"] == "not-found"
    assert (machine.root / "var/lib/private/wherry-fleet/keys").is_dir(), "its state stays"
