"""``edge-agent enroll``: from a configuration and a one-time code to a certificate."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.errors import AgentError
from edge_agent.identity.contact import TIMEOUT_S, Contact, certificate_files
from edge_agent.identity.device_key import Identity
from edge_agent.statedir import make_private, unwritable
from edge_contract.enrol_code import parse_code
from edge_contract.errors import ExitCode


def enrol_device(
    config: AgentConfig, code_text: str, *, server: str = "", timeout_s: float = TIMEOUT_S
) -> dict[str, Any]:
    """Make the key if there is none, and get its certificate. May be run again at any time.

    A running agent takes the certificate into use with its next attempt to connect.

    Raises:
        AgentError: no ``[mqtt]``, no answer, or the fleet refuses.
        ContractError, TrustError: not a code, of another fleet, or not this fleet's server.
    """
    code = parse_code(code_text)
    device = config.device
    if config.mqtt is None:
        raise AgentError(
            "the configuration has no [mqtt] section",
            hint="docs/reference/edge-agent.md shows one",
            exit_code=ExitCode.USAGE,
        )
    if code.fleet != device.fleet:
        raise AgentError(
            f"the code is of the fleet {code.fleet!r}, this device's is {device.fleet!r}",
            hint="set [device] fleet, or get a code of the right fleet",
            exit_code=ExitCode.USAGE,
        )
    state_dir = Path(device.state_dir)
    try:
        make_private(state_dir, for_owner=True)
        identity = Identity(state_dir / "device-key.pem")
        files = certificate_files(device, identity)
        contact = Contact(
            device,
            config.mqtt,
            identity,
            files,
            SystemClock(),
            server=server,
            timeout_s=timeout_s,
        )
        contact.enrol(code)
    except OSError as error:
        raise unwritable(state_dir, error) from error
    life = files.life_s()
    until = datetime.fromtimestamp(life[1], timezone.utc).strftime("%Y-%m-%d") if life else ""
    text = f"{device.fleet}/{device.id} is enrolled; its certificate lasts until {until}"
    if not config.mqtt.tls:
        text += "; next: set tls = true in [mqtt]"
    return {
        "fleet": device.fleet,
        "device": device.id,
        "device_key": identity.fingerprint,
        "until": until,
        "text": text,
    }
