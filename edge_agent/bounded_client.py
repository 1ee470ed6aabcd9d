"""paho's client, but for packets that nobody of ours sends: a captured broker may send 256 MB.

An agent without memory is ended, and the model with it.
"""

from __future__ import annotations

import errno

import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_contract.codec import MESSAGE_LIMIT_BYTES

PACKET_MAX_BYTES = 2 * MESSAGE_LIMIT_BYTES
"""The longest payload, with its topic and properties, and as much again."""


class BoundedClient(mqtt.Client):
    """Hangs up on a packet that is too long, before the first byte of it."""

    def _sock_recv(self, bufsize: int) -> bytes:
        # What is left of a packet is asked for in one piece.
        if bufsize > PACKET_MAX_BYTES:
            raise OSError(errno.EMSGSIZE, f"a packet of {bufsize} bytes")
        return super()._sock_recv(bufsize)

    @property
    def unread_bytes(self) -> int:
        """Of a message that has begun to come and is not whole. For ``on_disconnect``, on paho's
        thread: what was cut off has cost its bytes, and no one else tells of it."""
        packet = self._in_packet
        return len(packet["packet"]) if packet["to_process"] > 0 else 0


def connect_properties() -> Properties:
    """Tells an honest broker not to send what would be hung up on."""
    properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    properties.MaximumPacketSize = PACKET_MAX_BYTES
    return properties
