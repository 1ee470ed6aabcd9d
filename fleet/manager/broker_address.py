"""Where a broker listens, as people write it: ``mqtt://host:port``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from edge_contract.errors import ExitCode
from fleet.errors import FleetError

_URL = re.compile(r"mqtt://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:]+\])(?::([0-9]{1,5}))?/?")


@dataclass(frozen=True)
class BrokerAddress:
    """Host and port of an MQTT 5 listener without TLS."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"mqtt://{self.host}:{self.port}"


def parse_broker_address(text: str) -> BrokerAddress:
    """Read ``mqtt://host:port``; the port is 1883 when left out.

    Raises:
        FleetError: another form.
    """
    match = _URL.fullmatch(text)
    port = int(match[2] or 1883) if match else 0
    if match is None or not 1 <= port <= 65535:
        raise FleetError(
            f"broker {text!r}: expected mqtt://host:port",
            hint="for instance --broker mqtt://127.0.0.1:1883",
            exit_code=ExitCode.USAGE,
        )
    return BrokerAddress(match[1].strip("[]"), port)
