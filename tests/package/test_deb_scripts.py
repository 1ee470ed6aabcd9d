"""The package's scripts, as dpkg calls them: what they do to a service; none gets dpkg stuck."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "packaging" / "deb"
PLACES = ("/run/", "/etc/", "/opt/")
SYSTEMCTL = """#!/bin/sh
echo "$*" >> "$PLACE/calls"
case "$1" in
is-active) cat "$PLACE/active"; grep -qx active "$PLACE/active" ;;
restart) [ ! -e "$PLACE/broken" ] ;;
esac
"""


class Machine:
    """Its ``/run``, ``/etc`` and ``/opt`` below one folder, with a ``systemctl`` that notes."""

    def __init__(self, place: Path) -> None:
        self.place = place
        (place / "bin").mkdir()
        for name, text in (
            ("systemctl", SYSTEMCTL),
            ("edge-agent", '#!/bin/sh\necho "edge-agent $*" >> "$PLACE/calls"\n'),
        ):
            (place / "bin" / name).write_text(text)
            (place / "bin" / name).chmod(0o755)
        for folder in ("run/systemd/system", "etc/systemd/system", "opt/wherry/lib"):
            (place / folder).mkdir(parents=True)
        (place / "etc/systemd/system/edge-agent.service").write_text("[Service]\n")
        (place / "active").write_text("active\n")

    def script(self, name: str, *words: str) -> subprocess.CompletedProcess[str]:
        text = (SCRIPTS / name).read_text()
        for part in PLACES:
            text = text.replace(f" {part}", f" {self.place}{part}")
            text = text.replace(f"={part}", f"={self.place}{part}")
        path = f"{self.place / 'bin'}:{os.environ['PATH']}"
        done = subprocess.run(
            ["sh", "-c", text, name, *words],
            env={"PATH": path, "PLACE": str(self.place)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, f"dpkg is stuck half-way: {done.stderr}"
        return done

    def upgrade(self) -> subprocess.CompletedProcess[str]:
        self.script("prerm", "upgrade", "0.1.1")
        return self.script("postinst", "configure", "0.1.0")

    def calls(self) -> list[str]:
        calls = self.place / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.mark.parametrize("state", ["active", "activating"])
def test_an_agent_that_ran_before_the_upgrade_runs_after_it(machine: Machine, state: str) -> None:
    (machine.place / "active").write_text(f"{state}\n")
    machine.upgrade()
    done = [call for call in machine.calls() if not call.startswith("is-active")]
    assert done == ["stop edge-agent", "daemon-reload", "restart edge-agent"]
    machine.script("postinst", "configure", "0.1.1")
    assert machine.calls().count("restart edge-agent") == 1, "once for each upgrade"


@pytest.mark.parametrize("state", ["inactive", "failed"])
def test_an_agent_that_its_owner_has_stopped_stays_stopped(machine: Machine, state: str) -> None:
    (machine.place / "active").write_text(f"{state}\n")
    machine.upgrade()
    assert "restart edge-agent" not in machine.calls()


def test_an_agent_that_does_not_start_leaves_no_package_half_configured(machine: Machine) -> None:
    (machine.place / "broken").touch()
    assert "journalctl -u edge-agent" in machine.upgrade().stderr


def test_an_upgrade_that_was_given_up_starts_the_agent_again(machine: Machine) -> None:
    machine.script("prerm", "upgrade", "0.1.1")
    machine.script("postinst", "abort-upgrade", "0.1.1")
    assert machine.calls()[-1] == "restart edge-agent"


def test_a_package_whose_files_are_gone_can_be_removed(machine: Machine) -> None:
    (machine.place / "opt/wherry/lib").rmdir()
    machine.script("prerm", "remove")
    assert machine.calls() == ["edge-agent install-service --remove"]


def test_a_first_installation_starts_nothing_without_a_configuration(machine: Machine) -> None:
    (machine.place / "etc/systemd/system/edge-agent.service").unlink()
    told = machine.script("postinst", "configure", "")
    assert "edge-agent install-service" in told.stdout
    assert machine.calls() == []
    (machine.place / "etc/wherry").mkdir()
    (machine.place / "etc/wherry/agent.toml").touch()
    machine.script("postinst", "configure", "")
    assert machine.calls() == ["edge-agent install-service"]
