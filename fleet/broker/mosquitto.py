"""mosquitto's settings for one machine: loopback, anonymous, nothing dropped silently."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.layout import write_durably

MESSAGE_SIZE_LIMIT_BYTES = 2 * MESSAGE_LIMIT_BYTES
"""Above our largest payload; a publisher of anything longer is disconnected."""

_PLACES = os.pathsep.join(("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin"))
_SETTINGS = """\
# Written by edge-fleet at every start. For production, see `edge-fleet broker config`.
listener {port} {host}
allow_anonymous true

# 5 k instead of 38 k messages a second without it.
set_tcp_nodelay true

# The default of 1000 drops messages to an offline client after they were acknowledged.
max_queued_messages 0
max_inflight_messages 100
message_size_limit {message_size_limit}

# What is retained survives a stop; a kill loses at most the seconds since the last save, which
# the manager publishes again from its store when it reconnects.
persistence true
persistence_location {state_dir}/
autosave_interval 5
persistent_client_expiration 14d

log_dest stderr
log_type error
log_type warning
log_timestamp_format %Y-%m-%dT%H:%M:%S
"""


def find_mosquitto() -> str | None:
    """The path of the mosquitto program, also where Debian keeps it off the PATH of users."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path=_PLACES)


def write_config(host: str, port: int, state_dir: Path) -> Path:
    """Write ``mosquitto.conf`` into ``state_dir`` and return its path."""
    text = _SETTINGS.format(
        host=host, port=port, state_dir=state_dir, message_size_limit=MESSAGE_SIZE_LIMIT_BYTES
    )
    if os.geteuid() == 0:
        # As root it would change to a user who cannot write here.
        text += "user root\n"
    path = state_dir / "mosquitto.conf"
    write_durably(path, text.encode())
    return path
