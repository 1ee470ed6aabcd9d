"""Root works in the directory of a service that has an account of its own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from device_configs.service.owner import hand_over
from fleet.cli import main as fleet_main
from tests.agent.conftest import Bench, bench

__all__ = ["bench"]
ACCOUNT = 64_123

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can work in the directory of another account"
)


def owners(directory: Path) -> dict[int, list[str]]:
    found: dict[int, list[str]] = {}
    for path in (directory, *directory.rglob("*")):
        found.setdefault(path.lstat().st_uid, []).append(path.name)
    return found


def given_to_a_service(directory: Path) -> Path:
    """As systemd leaves it: the directory is below ``private``, a link leads to it."""
    real = directory.with_name("private")
    real.mkdir(mode=0o700)
    os.chown(real, ACCOUNT, ACCOUNT)
    directory.symlink_to(real)
    return real


def test_what_root_installs_for_the_service_belongs_to_the_service(bench: Bench) -> None:
    real = given_to_a_service(bench.state)
    assert bench.install(bench.bundle()).returncode == 0
    assert (real / "update" / "journal").is_file()
    assert set(owners(real)) == {ACCOUNT}, owners(real)


def test_what_root_publishes_for_the_service_belongs_to_the_service(tmp_path: Path) -> None:
    real = given_to_a_service(tmp_path / "fleet")
    with pytest.raises(SystemExit) as done:
        fleet_main(
            ["ca", "request", "--out", str(tmp_path / "csr"), "--state", str(tmp_path / "fleet")]
        )
    assert done.value.code == 0, "the fleet's name is settled"
    with pytest.raises(SystemExit) as done:
        fleet_main(["key", "rotate", "snapshot", "--state", str(tmp_path / "fleet")])
    assert done.value.code == 3, "nothing was published yet"
    with pytest.raises(SystemExit) as done:
        fleet_main(["root", "--state", str(tmp_path / "fleet")])
    assert done.value.code == 0
    assert (real / "tuf" / "timestamp.json").is_file()
    assert set(owners(real)) == {ACCOUNT}, owners(real)


def test_nothing_but_roots_own_files_changes_hands(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("root's, elsewhere")
    real = given_to_a_service(tmp_path / "state")
    (real / "made").mkdir()
    (real / "made" / "file").write_text("root's, here")
    (real / "link").symlink_to(outside)
    (real / "folder").symlink_to(tmp_path)
    (real / "second-name").hardlink_to(outside)
    (real / "another").write_text("somebody's")
    os.chown(real / "another", 1, 1)
    hand_over(tmp_path / "state")
    assert owners(real)[0] == ["second-name"]
    assert owners(real)[1] == ["another"]
    assert outside.stat().st_uid == 0
    assert tmp_path.stat().st_uid == 0
    home = tmp_path / "roots"
    home.mkdir()
    hand_over(home)
    hand_over(tmp_path / "not-there")
    assert home.stat().st_uid == 0
