"""How MQTT leaves this device: plain TCP, over a WebSocket, through an HTTP proxy."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

import paho.mqtt.client as mqtt

from edge_agent.config import MqttSection
from edge_agent.errors import AgentError


def set_transport(client: mqtt.Client, section: MqttSection) -> None:
    """Apply ``transport``, ``path`` and ``proxy``; TLS is set beside.

    Raises:
        AgentError: a proxy is asked for and PySocks is not installed.
    """
    if section.transport == "websockets":
        client.ws_set_options(path=section.path)
    if not section.proxy:
        return
    try:
        import socks
    except ImportError as error:
        raise AgentError(
            "[mqtt] proxy: PySocks is not installed", hint="pip install 'wherry[agent]'"
        ) from error
    parts = urlsplit(section.proxy)
    # CONNECT with the broker's name, not its address: a captive network may not resolve it.
    client.proxy_set(
        proxy_type=socks.HTTP,
        proxy_addr=parts.hostname,
        proxy_port=parts.port or 8080,
        proxy_rdns=True,
        proxy_username=unquote(parts.username) if parts.username else None,
        proxy_password=unquote(parts.password) if parts.password else None,
    )
