"""The text of a systemd unit, from a template and what a machine needs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from device_configs.service.account import check_name
from edge_contract.errors import ContractError, ExitCode
from edge_contract.profile import DeviceProfile

WATCHDOG_S = 60
AGENT_MEMORY_SHARE = 0.4
"""Of the board's memory, at most, for the agent: two loaded models, the runtime, the spool."""
AGENT_MEMORY_MIN_MB = 200
FLEET_MEMORY_MB = 1000
MEMORY_MIN_MB = 100

_STATE_ROOT = Path("/var/lib")
_DEVICE = re.compile(r"(char|block)-[A-Za-z0-9*_-]+|/dev/[A-Za-z0-9/_.:-]+")
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))


@dataclass(frozen=True)
class Service:
    """What one unit needs to know.

    program: absolute path of the command, in its own environment.
    state_dir: where it writes; below ``/var/lib``, unless ``user`` is named.
    reads, writes: paths outside of the state directory that it needs.
    user: an existing account; "" for one that systemd makes for the service.
    devices: ``DeviceAllow`` entries such as ``char-video4linux``.
    groups: that may open them.
    options: further arguments of the command.
    """

    name: str
    program: Path
    state_dir: Path
    memory_max_mb: int
    config: Path | None = None
    reads: tuple[Path, ...] = ()
    writes: tuple[Path, ...] = ()
    user: str = ""
    devices: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    watchdog_s: int = WATCHDOG_S


def agent_memory_max_mb(profile: DeviceProfile) -> int:
    """The memory limit of the agent on a board."""
    return max(AGENT_MEMORY_MIN_MB, int(profile.memory_mb * AGENT_MEMORY_SHARE))


def render(template: str, service: Service) -> str:
    """The unit's text.

    Args:
        template: ``edge-agent`` or ``edge-fleet``.

    Raises:
        ContractError: a state directory that the service could not write, or a path with
            characters that a unit gives a meaning to.
    """
    for path in (service.program, service.state_dir, *service.reads, *service.writes):
        _check_path(path)
    if service.config is not None:
        _check_path(service.config)
    odd = [word for word in service.devices if not _DEVICE.fullmatch(word)]
    if odd:
        raise ContractError(
            f"--device {odd[0][:80]!r}: expected a group of devices, such as char-ttyUSB, or a path"
            " below /dev",
            exit_code=ExitCode.USAGE,
        )
    if service.memory_max_mb < MEMORY_MIN_MB:
        raise ContractError(
            f"--memory-max-mb {service.memory_max_mb}: expected {MEMORY_MIN_MB} or more; with less"
            " it would be ended at its start, again and again",
            exit_code=ExitCode.USAGE,
        )
    text = resources.files("device_configs").joinpath(f"units/{template}.service").read_text()
    return text.format(
        name=service.name,
        program=service.program,
        config=service.config or "",
        state=service.state_dir,
        options=" ".join(service.options),
        user=_user(service),
        devices=_devices(service),
        protect_home=_protect_home(service),
        memory_max_mb=service.memory_max_mb,
        watchdog_s=service.watchdog_s,
    )


def _user(service: Service) -> str:
    if service.user:
        check_name(service.user)
        writes = (service.state_dir, *service.writes)
        return "\n".join(
            [f"User={service.user}", "ReadWritePaths=" + " ".join(str(path) for path in writes)]
        )
    if service.state_dir.parent != _STATE_ROOT:
        raise ContractError(
            f"the service's own account can write below {_STATE_ROOT} only, but its state directory"
            f" is {service.state_dir}",
            hint="set it to /var/lib/wherry (a data partition can be mounted there), or name an"
            " existing account that owns it: --user NAME",
            exit_code=ExitCode.USAGE,
        )
    if service.writes:
        raise ContractError(
            f"{', '.join(map(str, service.writes))}: lies outside of the state directory"
            f" {service.state_dir}, which is all that the service's own account can write",
            hint="move it there, or name an existing account that may write it: --user NAME",
            exit_code=ExitCode.USAGE,
        )
    return "\n".join(
        ["DynamicUser=yes", f"StateDirectory={service.state_dir.name}", "StateDirectoryMode=0700"]
    )


def _devices(service: Service) -> str:
    lines = ["DevicePolicy=closed"]
    lines += [f"DeviceAllow={device} rw" for device in service.devices]
    if not service.devices:
        lines.append("PrivateDevices=yes")
    if service.groups:
        lines.append("SupplementaryGroups=" + " ".join(service.groups))
    return "\n".join(lines)


def _protect_home(service: Service) -> str:
    """``read-only`` where something that it needs lies in a home directory."""
    needed = [service.program, service.config, service.state_dir, *service.reads, *service.writes]
    at_home = any(path is not None and path.is_relative_to(h) for path in needed for h in _HOMES)
    return "read-only" if at_home else "yes"


def _check_path(path: Path) -> None:
    text = str(path)
    if not path.is_absolute() or not text.isprintable() or any(c in text for c in " %$\"'\\{};"):
        raise ContractError(
            f"path {text!r} cannot stand in a unit: expected an absolute path without spaces,"
            " quotes, '%', '$' and the like",
            exit_code=ExitCode.USAGE,
        )
