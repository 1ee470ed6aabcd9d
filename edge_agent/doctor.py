"""``edge-agent doctor``: what would keep the agent from working, each with the next step."""

from __future__ import annotations

import errno
import importlib.util
import os
import platform
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from edge_agent.board import default_hardware
from edge_agent.config import AgentConfig, load_config
from edge_agent.statedir import doubt_about_state, unwritable
from edge_agent.trust.root_file import is_root
from edge_contract.errors import WherryError


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    ok: bool
    text: str
    hint: str = ""

    def as_json(self) -> dict[str, object]:
        """For ``--json``."""
        return {"ok": self.ok, "text": self.text, "hint": self.hint}


def examine(config_path: Path | None, state_dir: Path) -> Iterator[Finding]:
    """Look at the runtime, the configuration, the disk, the source and the broker."""
    yield _runtime()
    config: AgentConfig | None = None
    if config_path is not None:
        try:
            config = load_config(config_path)
            yield Finding(True, f"{config_path} is a valid configuration")
        except WherryError as error:
            yield Finding(False, error.message, error.hint)
    yield _disk(state_dir)
    if config is None:
        return
    yield _profile(config)
    yield _root(Path(config.trust.root))
    if config.source.kind == "directory":
        readable = os.access(config.source.path, os.R_OK | os.X_OK)
        yield Finding(
            readable,
            f"source {config.source.path} {'is readable' if readable else 'cannot be read'}",
            "create it or set source.path",
        )
    elif importlib.util.find_spec("cv2") is None:
        yield Finding(
            False,
            f"source.kind = {config.source.kind!r} needs OpenCV, and it is not installed",
            "a package with it: packaging/deb/build.py --extras agent,vision; else pip install"
            " 'wherry[vision]'",
        )
    if config.mqtt is not None and config.mqtt.tls:
        yield _certificate(state_dir)
    if config.mqtt is not None:
        yield _broker(config.mqtt.host, config.mqtt.port)


def _runtime() -> Finding:
    try:
        import onnxruntime
    except ImportError as error:
        return Finding(
            False, f"onnxruntime cannot be imported: {error}", "pip install 'wherry[agent]'"
        )
    return Finding(True, f"onnxruntime {onnxruntime.__version__} loads")


def _disk(state_dir: Path) -> Finding:
    place = state_dir
    while not place.exists():
        place = place.parent
    stat = os.statvfs(place)
    if not os.access(place, os.W_OK):
        refusal = errno.EROFS if stat.f_flag & os.ST_RDONLY else errno.EACCES
        error = unwritable(state_dir, OSError(refusal, os.strerror(refusal)))
        return Finding(False, error.message, error.hint)
    doubt = doubt_about_state(state_dir, for_owner=True) if state_dir.is_dir() else None
    if doubt is not None:
        return Finding(False, doubt.text, doubt.hint)
    free_mb = stat.f_bavail * stat.f_frsize / 1e6
    return Finding(
        free_mb >= 100,
        f"{free_mb:.0f} MB free for {state_dir}",
        "free some space: two model slots, the blobs and the spool live there",
    )


def _profile(config: AgentConfig) -> Finding:
    from device_configs.loader import load_profile

    try:
        profile = load_profile(config.device.hardware)
    except WherryError as error:
        return Finding(False, error.message, error.hint)
    board, machine = default_hardware(), platform.machine()
    if profile.arch != machine:
        return Finding(
            False,
            f"device profile {profile.id} is for {profile.arch}, this machine is {machine}",
            f'set [device] hardware = "{board}"',
        )
    also = "" if board in (profile.id, f"generic-{machine}") else f"; the board says {board}"
    return Finding(True, f"device profile {profile.id}: {profile.title}{also}")


def _root(path: Path) -> Finding:
    hint = f"on the fleet's machine: edge-fleet root > {path.name}; then copy it to {path}"
    try:
        root = is_root(path.read_bytes())
    except FileNotFoundError:
        return Finding(False, f"trust root {path} is missing", hint)
    except OSError as error:
        return Finding(False, f"trust root {path} cannot be read: {error.strerror}", hint)
    if not root:
        return Finding(False, f"trust root {path} is no root of trust but something else", hint)
    return Finding(True, f"trust root {path} is there")


def _certificate(state_dir: Path) -> Finding:
    directory = state_dir / "identity"
    there = (directory / "ca.pem").is_file() and (directory / "chain.pem").is_file()
    return Finding(
        there,
        f"this device {'has a certificate' if there else 'is not enrolled: it has no certificate'}",
        "at the manager: edge-fleet enroll-code; here: edge-agent enroll --config FILE --code CODE",
    )


def _broker(host: str, port: int) -> Finding:
    try:
        with socket.create_connection((host, port), timeout=3):
            return Finding(True, f"a broker answers at {host}:{port}")
    except OSError as error:
        return Finding(
            False,
            f"no broker answers at {host}:{port}: {error}",
            "the agent works offline meanwhile; on the fleet's machine: edge-fleet doctor",
        )
