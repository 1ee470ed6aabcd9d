"""Put a unit into systemd, or take it out again."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from edge_contract.errors import ExitCode, WherryError
from edge_contract.layout import write_durably

UNIT_DIR = Path("/etc/systemd/system")
_TIMEOUT_S = 150
"""A start waits for ``READY=1``, at most the unit's ``TimeoutStartSec``."""

Say = Callable[[str], None]


class ServiceError(WherryError):
    """systemd is not there, refuses, or what it was given is wrong."""


def check_unit(name: str, text: str) -> None:
    """Let systemd read the unit; without ``systemd-analyze`` nothing is checked.

    Raises:
        ServiceError: it finds anything to say. (It exits with 0 on a misspelt key.)
    """
    analyse = shutil.which("systemd-analyze")
    if analyse is None:
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{name}.service"
        path.write_text(text)
        done = subprocess.run(
            [analyse, "verify", "--man=no", str(path)], capture_output=True, text=True, timeout=60
        )
        # It also reads the units that this one names, which are not ours to judge.
        said = [line for line in done.stderr.splitlines() if path.name in line]
        if said:
            raise ServiceError(f"systemd does not accept the unit {name}: {' '.join(said)[:500]}")


def install_unit(name: str, text: str, *, start: bool, say: Say, unit_dir: Path = UNIT_DIR) -> Path:
    """Write the unit, have it started at every boot, and now.

    Raises:
        ServiceError: not root, no systemd, or the service does not get ready.
    """
    require_root()
    if start:
        _require_systemd()
    check_unit(name, text)
    path = unit_dir / f"{name}.service"
    try:
        unit_dir.mkdir(parents=True, exist_ok=True)
        write_durably(path, text.encode())
        path.chmod(0o644)
    except OSError as error:
        raise ServiceError(
            f"cannot write {path}: {error.strerror}",
            hint="on a read-only root remount it for the installation:"
            " sudo mount -o remount,rw / ; afterwards remount,ro",
        ) from error
    say(f"wrote {path}")
    if start:
        _systemctl("daemon-reload")
        _systemctl("enable", name)
        say(f"starting {name}; it says when it is ready")
        _systemctl("restart", name, hint=f"journalctl -u {name} -n 50")
    return path


def remove_unit(name: str, *, say: Say, unit_dir: Path = UNIT_DIR) -> None:
    """Stop the service and take its unit away; its state stays.

    Raises:
        ServiceError: not root, or there is no such unit.
    """
    require_root()
    path = unit_dir / f"{name}.service"
    if not path.exists():
        raise ServiceError(f"there is no {path}", exit_code=ExitCode.NOT_FOUND)
    running = Path("/run/systemd/system").is_dir()
    if running:
        _systemctl("disable", "--now", name)
    path.unlink()
    if running:
        _systemctl("daemon-reload")
    say(f"removed {path}; the state directory was left as it is")


def require_root() -> None:
    """A system's services are root's to write.

    Raises:
        ServiceError: this is not root.
    """
    if os.geteuid() != 0:
        raise ServiceError(
            "writing a system service needs root",
            hint="sudo, or --dry-run to see the unit",
            exit_code=ExitCode.AUTH,
        )


def _require_systemd() -> None:
    if not Path("/run/systemd/system").is_dir():
        raise ServiceError(
            "systemd does not run on this machine",
            hint="--dry-run prints the unit; the command in its ExecStart= is what to run",
        )


def _systemctl(*arguments: str, hint: str = "") -> None:
    try:
        done = subprocess.run(
            ["systemctl", *arguments], capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServiceError(f"systemctl {' '.join(arguments)}: {error}", hint=hint) from error
    if done.returncode:
        raise ServiceError(
            f"systemctl {' '.join(arguments)} failed: {done.stderr.strip()[:500]}", hint=hint
        )
