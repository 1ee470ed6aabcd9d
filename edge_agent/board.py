"""Which board this is, and where its state lies by default."""

from __future__ import annotations

import os
import platform
from pathlib import Path

DEFAULT_CONFIG = Path("/etc/wherry/agent.toml")
"""Where the service looks for the agent's configuration."""

_MODEL_FILE = Path("/proc/device-tree/model")
_KNOWN = (
    ("Raspberry Pi 5", "raspberry-pi-5"),
    ("Raspberry Pi 4", "raspberry-pi-4"),
    ("Raspberry Pi 3", "raspberry-pi-3"),
    ("Raspberry Pi Zero 2", "raspberry-pi-zero-2-w"),
)


def default_hardware(model_file: Path = _MODEL_FILE) -> str:
    """The device profile of this board, as its device tree names it; else the generic one."""
    try:
        model = model_file.read_text(errors="replace")
    except OSError:
        model = ""
    for words, profile in _KNOWN:
        if words in model:
            return profile
    return "generic-arm64" if platform.machine() == "aarch64" else "generic-x86-64"


def default_state_dir() -> Path:
    """``/var/lib/wherry`` for root, else below the XDG state directory of the user."""
    if os.geteuid() == 0:
        return Path("/var/lib/wherry")
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "wherry" / "agent"
