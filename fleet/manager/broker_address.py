"""Where a broker listens, as people write it: ``mqtt://host:port``, or mqtts, ws, wss."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_contract.errors import ExitCode
from fleet.errors import FleetError

_PORTS = {"mqtt": 1883, "mqtts": 8883, "ws": 80, "wss": 443}
_URL = re.compile(
    r"(mqtts?|wss?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?(/[!-~]{0,80})?"
)


@dataclass(frozen=True)
class BrokerAddress:
    """Host, port and transport of an MQTT 5 listener. ``path`` is that of a WebSocket."""

    host: str
    port: int
    tls: bool = False
    websocket: bool = False
    path: str = "/mqtt"

    def __str__(self) -> str:
        scheme = ("ws" if self.websocket else "mqtt") + ("s" if self.tls else "")
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}{self.path if self.websocket else ''}"


def parse_broker_address(text: str) -> BrokerAddress:
    """Read ``mqtt://host:port``; left-out ports are 1883, 8883 (mqtts), 80 (ws) and 443 (wss).

    Raises:
        FleetError: another form.
    """
    match = _URL.fullmatch(text)
    scheme = match[1] if match else ""
    port = int(match[3] or _PORTS[scheme]) if match else 0
    path = (match[4] or "") if match else ""
    websocket = scheme.startswith("ws")
    if match is None or not 1 <= port <= 65535 or (path not in ("", "/") and not websocket):
        raise FleetError(
            f"broker {text!r}: expected mqtt://host:port (or mqtts, ws, wss)",
            hint="for instance --broker mqtt://127.0.0.1:1883",
            exit_code=ExitCode.USAGE,
        )
    return BrokerAddress(
        match[2].strip("[]"),
        port,
        tls=scheme.endswith("s") and scheme != "ws",
        websocket=websocket,
        path=path if len(path) > 1 else "/mqtt",
    )
