"""The embedded broker: iotcore (rumqttd), so that nothing has to be installed to try a fleet.

It has no access control and forgets everything when it stops, which is why it is bound to
loopback only (ADR 0007). By default it would listen on all interfaces, speak MQTT 3.1.1 and
refuse payloads over 20 KB; all three are set here.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.layout import write_durably

_SETTINGS = """\
# Written by edge-fleet at every start.
id = 0

[router]
id = 0
max_connections = 1010
max_outgoing_packet_count = 200
# Kept for each subscription filter; a subscriber that lags further loses the oldest messages.
max_segment_size = 4194304
max_segment_count = 5

[v5.1]
name = "loopback"
listen = "{listen}"
next_connection_delay_ms = 0

[v5.1.connections]
connection_timeout_ms = 60000
max_payload_size = {max_payload_size}
max_inflight_count = 500
dynamic_filters = true
"""


def is_installed() -> bool:
    """Whether the iotcore package is there."""
    return importlib.util.find_spec("iotcore") is not None


def write_config(host: str, port: int, state_dir: Path) -> Path:
    """Write ``embedded.toml`` into ``state_dir`` and return its path."""
    listen = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    text = _SETTINGS.format(listen=listen, max_payload_size=2 * MESSAGE_LIMIT_BYTES)
    path = state_dir / "embedded.toml"
    write_durably(path, text.encode())
    return path
