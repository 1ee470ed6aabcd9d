"""The units: what systemd accepts, what they may touch, and what is refused before anything."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from device_configs.service.account import check_name, prepare_directories, require_open
from device_configs.service.install import ServiceError, check_unit
from device_configs.service.unit import Service, render
from edge_agent.cli import main
from edge_agent.service import unit_text
from edge_contract.errors import ContractError

EXPOSURE_MAX = 30
"""Tenths, as `systemd-analyze security --threshold` counts them."""


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """One that others can get into; those of pytest are closed."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        folder.chmod(0o755)
        yield folder


def config_file(
    folder: Path, *, source: str = 'kind = "camera"\npath = "0"', **device: str
) -> Path:
    facts = {"hardware": "raspberry-pi-4", "state_dir": "/var/lib/wherry", **device}
    root = folder / "root.json"
    root.write_text("{}")
    root.chmod(0o644)
    path = folder / "agent.toml"
    lines = "\n".join(f'{key} = "{value}"' for key, value in facts.items())
    path.write_text(
        f'[device]\nfleet = "f"\nid = "d"\nline = "digits"\n{lines}\n'
        f'[trust]\nroot = "{root}"\n[source]\n{source}\n'
    )
    path.chmod(0o644)
    return path


def keys(text: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            key, value = line.split("=", 1)
            found.setdefault(key, []).append(value)
    return found


def test_a_camera_on_a_pi_gets_the_camera_and_no_other_device(tmp_path: Path) -> None:
    unit = keys(unit_text(config_file(tmp_path)))
    assert unit["DevicePolicy"] == ["closed"]
    assert unit["DeviceAllow"] == ["char-video4linux rw"]
    assert unit["SupplementaryGroups"] == ["video"]
    assert unit["StateDirectory"] == ["wherry"]
    assert unit["Type"] == ["notify"]
    assert int(unit["MemoryMax"][0].removesuffix("M")) >= 200


def test_files_as_a_source_need_no_device_at_all(tmp_path: Path) -> None:
    frames = tmp_path / "frames"
    unit = keys(unit_text(config_file(tmp_path, source=f'kind = "directory"\npath = "{frames}"')))
    assert unit["PrivateDevices"] == ["yes"]
    assert "DeviceAllow" not in unit


def test_a_jetson_gets_its_gpu_and_a_gateway_its_serial_line(tmp_path: Path) -> None:
    text = unit_text(config_file(tmp_path, hardware="jetson-orin-nano"), devices=("char-ttyUSB",))
    unit = keys(text)
    assert {"char-nv* rw", "char-ttyUSB rw"} <= set(unit["DeviceAllow"])
    assert set(unit["SupplementaryGroups"][0].split()) == {"dialout", "video", "render"}


def test_a_state_directory_that_the_service_could_not_write_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="below /var/lib only") as caught:
        unit_text(config_file(tmp_path, state_dir="/data/wherry"))
    assert "--user" in caught.value.hint
    unit = keys(unit_text(config_file(tmp_path, state_dir="/data/wherry"), user="pi"))
    assert unit["User"] == ["pi"]
    assert unit["ReadWritePaths"] == ["/data/wherry"]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may write a system's services")
def test_what_its_account_could_not_reach_is_refused(open_folder: Path) -> None:
    path = config_file(open_folder)

    def install() -> None:
        require_open((path, open_folder / "root.json"))

    install()
    path.chmod(0o600)
    with pytest.raises(ServiceError, match="closed to others") as caught:
        install()
    assert f"chmod o+r {path}" in caught.value.hint
    path.chmod(0o644)
    (open_folder / "home").mkdir(mode=0o700)
    (open_folder / "home" / "agent.toml").write_text("")
    (open_folder / "link.toml").symlink_to(open_folder / "home" / "agent.toml")
    with pytest.raises(ServiceError, match=f"lies below {open_folder / 'home'}, which is closed"):
        require_open([open_folder / "link.toml"])


@pytest.mark.parametrize("odd", ["a b", "pi\nExecStartPre=/bin/sh", "%i", "1000", "", "Ä"])
def test_a_user_that_is_no_name_stands_in_no_unit(odd: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match="expected the name of an account"):
        check_name(odd)
    if odd:
        with pytest.raises(ContractError, match="expected the name of an account"):
            unit_text(config_file(tmp_path), user=odd)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a directory away")
def test_the_directories_of_a_named_account_are_there_before_the_unit_needs_them(
    tmp_path: Path,
) -> None:
    state = tmp_path / "data" / "wherry"
    prepare_directories("nobody", [state])
    prepare_directories("nobody", [state])
    assert state.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    assert state.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ServiceError, match="belongs to user 0") as caught:
        prepare_directories("nobody", [tmp_path / "data"])
    assert caught.value.hint == f"chown -R nobody {tmp_path / 'data'}"
    with pytest.raises(ServiceError, match="no account 'nobody-at-all'"):
        prepare_directories("nobody-at-all", [])


@pytest.mark.parametrize("odd", ["foo bar", "ttyUSB", "/etc/passwd", "char-x rw\nUser=root"])
def test_a_device_that_is_none_stands_in_no_unit(odd: str, tmp_path: Path) -> None:
    with pytest.raises(ContractError, match=r"expected a group of devices"):
        unit_text(config_file(tmp_path), devices=(odd,))


def test_a_memory_limit_that_would_end_it_at_its_start_is_refused(tmp_path: Path) -> None:
    for limit in (-5, 0, 99):
        with pytest.raises(ContractError, match="expected 100 or more"):
            unit_text(config_file(tmp_path), memory_max_mb=limit)


def test_hooks_in_a_home_directory_are_not_hidden_from_the_service(tmp_path: Path) -> None:
    path = config_file(tmp_path)
    assert keys(unit_text(path))["ProtectHome"] == ["yes"]
    path.write_text(path.read_text() + '[hooks]\ndirectory = "/home/pi/hooks"\n')
    assert keys(unit_text(path))["ProtectHome"] == ["read-only"]


@pytest.mark.parametrize("odd", ["/opt/my env/edge-agent", "/opt/%h/x", "relative/x", "/a\n/b"])
def test_a_path_that_a_unit_would_read_otherwise_is_refused(odd: str) -> None:
    service = Service(
        name="edge-agent", program=Path(odd), state_dir=Path("/var/lib/w"), memory_max_mb=300
    )
    with pytest.raises(ContractError, match="cannot stand in a unit"):
        render("edge-agent", service)


def test_a_misspelt_key_is_found_although_systemd_exits_with_zero(tmp_path: Path) -> None:
    text = unit_text(config_file(tmp_path))
    check_unit("edge-agent", text)
    with pytest.raises(ServiceError, match="ProtectSystm"):
        check_unit("edge-agent", text.replace("ProtectSystem=", "ProtectSystm="))


@pytest.mark.parametrize("name", ["edge-agent", "edge-fleet"])
def test_the_exposure_that_systemd_counts_is_at_most_three(name: str, tmp_path: Path) -> None:
    assert shutil.which("systemd-analyze"), "part of systemd, which every Debian has"
    service = Service(
        name=name,
        program=Path("/usr/bin/true"),
        state_dir=Path("/var/lib/wherry"),
        config=Path("/etc/wherry/agent.toml"),
        memory_max_mb=400,
        devices=("char-video4linux",),
        groups=("video",),
    )
    path = tmp_path / f"{name}.service"
    path.write_text(render(name, service))
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", str(path)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-300:]


def test_a_dry_run_prints_the_unit_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["install-service", "--config", str(config_file(tmp_path)), "--dry-run"]) == 0
    assert capsys.readouterr().out.startswith("# Written by: edge-agent install-service")
