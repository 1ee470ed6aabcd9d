"""``edge-agent install-service``: the agent as a hardened systemd service."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from device_configs.loader import load_profile
from device_configs.service.account import prepare_directories, require_open
from device_configs.service.install import (
    Say,
    check_unit,
    install_unit,
    remove_unit,
    require_root,
)
from device_configs.service.unit import Service, agent_memory_max_mb, render
from edge_agent.config import AgentConfig, load_config
from edge_agent.errors import AgentError
from edge_contract.errors import ExitCode
from edge_contract.profile import DeviceProfile

NAME = "edge-agent"

_CAMERA = ("char-video4linux",)
_JETSON_GPU = ("char-nv*",)
"""The character devices of NVIDIA's Jetson drivers; taken from their names, no board was there."""


def unit_text(
    config_path: Path,
    *,
    user: str = "",
    devices: tuple[str, ...] = (),
    memory_max_mb: int | None = None,
) -> str:
    """The unit for the agent that ``config_path`` configures.

    Args:
        config_path: the agent's TOML file.
        user: an existing account to run as; "" for one of the service's own.
        devices: further ``DeviceAllow`` entries, such as ``char-ttyUSB`` for a serial gateway.
        memory_max_mb: the limit; None takes a share of the board's memory.

    Raises:
        AgentError: the command is not installed.
        ContractError: the configuration is malformed, or asks for what the service could not do.
    """
    config_path = config_path.absolute()
    config = load_config(config_path)
    profile = load_profile(config.device.hardware)
    root = Path(config.trust.root).absolute()
    found, groups = _devices(config, profile, devices)
    service = Service(
        name=NAME,
        program=_program(),
        config=config_path,
        state_dir=Path(config.device.state_dir),
        memory_max_mb=agent_memory_max_mb(profile) if memory_max_mb is None else memory_max_mb,
        reads=(root, *_source_paths(config), *_hooks(config)),
        writes=_written(config),
        user=user,
        devices=found,
        groups=groups,
    )
    text = render(NAME, service)
    check_unit(NAME, text)
    return text


def install(text: str, config_path: Path, *, user: str, start: bool, say: Say) -> Path:
    """Write the unit and start it, once what the service needs is open to its account.

    Raises:
        ServiceError: not root, no systemd, a file that is closed to the account, or the agent does
            not get ready.
    """
    config = load_config(config_path)
    require_root()
    if user:
        prepare_directories(user, (Path(config.device.state_dir), *_written(config)))
    else:
        require_open((_program(), config_path.absolute(), Path(config.trust.root).absolute()))
    return install_unit(NAME, text, start=start, say=say)


def remove(*, say: Say) -> None:
    """Stop the service and remove its unit; the state stays.

    Raises:
        ServiceError: not root, or it is not installed.
    """
    remove_unit(NAME, say=say)


def _program() -> Path:
    """The ``edge-agent`` of this very environment, so that the unit runs what was tried."""
    beside = Path(sys.executable).with_name("edge-agent")
    found = str(beside) if beside.exists() else shutil.which("edge-agent")
    if found is None:
        raise AgentError(
            f"there is no edge-agent command beside {sys.executable} nor on the path",
            hint="pip install 'wherry[agent]' in the environment that the service shall use",
            exit_code=ExitCode.NOT_FOUND,
        )
    return Path(found).absolute()


def _devices(
    config: AgentConfig, profile: DeviceProfile, asked: tuple[str, ...]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(what may be opened, the groups that may)."""
    devices, groups = list(asked), []
    if any(device.startswith(("char-tty", "/dev/tty")) for device in asked):
        groups.append("dialout")
    if config.source.kind == "camera" and _is_local_camera(config.source.path):
        devices += _CAMERA
        groups.append("video")
    if profile.accelerator is not None:
        devices += _JETSON_GPU
        groups += ["video", "render"]
    return tuple(dict.fromkeys(devices)), tuple(dict.fromkeys(groups))


def _is_local_camera(path: str) -> bool:
    return path.isdecimal() or path.startswith("/dev/")


def _source_paths(config: AgentConfig) -> tuple[Path, ...]:
    if config.source.kind == "camera":
        return ()
    return (Path(config.source.path).absolute(),)


def _hooks(config: AgentConfig) -> tuple[Path, ...]:
    """In a home directory that is hidden, hooks are "not there", which refuses every update."""
    return (Path(config.hooks.directory).absolute(),) if config.hooks.directory else ()


def _written(config: AgentConfig) -> tuple[Path, ...]:
    """Directories outside of the state directory that the agent writes to."""
    if not config.output.predictions:
        return ()
    folder = Path(config.output.predictions).absolute().parent
    inside = folder.is_relative_to(config.device.state_dir)
    return () if inside else (folder,)
