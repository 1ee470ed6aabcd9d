"""The MQTT link: one paho client whose network thread only posts events.

Nothing here decides anything. The loop owns all state; this file turns callbacks into events and
signs what goes out. No session is relied on: on every CONNACK the loop subscribes and publishes
anew, because a broker may have forgotten everything.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.config import MqttSection
from edge_agent.identity import Identity
from edge_contract.signing import SIGNATURE_PROPERTY


@dataclass(frozen=True)
class LinkUp:
    """A CONNACK came. ``connection_id`` stands in the will of this very connection."""

    connection_id: str


@dataclass(frozen=True)
class LinkDown:
    """The connection ended, or could not be made."""

    reason: str


@dataclass(frozen=True)
class Inbound:
    """A message came."""

    topic: str
    payload: bytes
    signature: str


LinkEvent = LinkUp | LinkDown | Inbound


class Link:
    """Connects, reconnects with jittered back-off, signs and publishes.

    Args:
        config: where the broker is.
        user: ``{fleet}/{device}``; the client id is the same with a dot, because rumqttd takes
            no slash in one (and mosquitto, told ``use_username_as_clientid``, ignores it).
        identity: signs every message.
        post: receives every ``LinkEvent``, from the network thread.
        will: (topic, payload) of the will for a given connection id.
    """

    def __init__(
        self,
        config: MqttSection,
        user: str,
        identity: Identity,
        post: Callable[[LinkEvent], None],
        will: Callable[[str], tuple[str, bytes]],
    ) -> None:
        self._config = config
        self._identity = identity
        self._post = post
        self._will = will
        self._connection_id = ""
        self._up = False
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2, client_id=user.replace("/", "."), protocol=mqtt.MQTTv5
        )
        client.username_pw_set(user)
        client.reconnect_delay_set(1, max(1, int(config.reconnect_max_s)))
        client.max_inflight_messages_set(64)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client

    @property
    def up(self) -> bool:
        """Whether the last thing heard was a CONNACK."""
        return self._up

    def start(self) -> None:
        """Begin to connect; never fails, keeps trying."""
        self._client.connect_async(
            self._config.host, self._config.port, keepalive=self._config.keepalive_s
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect in order (no will) and end the network thread."""
        self._client.disconnect()
        self._client.loop_stop()

    def subscribe(self, filters: list[str]) -> None:
        """Subscribe at QoS 1."""
        self._client.subscribe([(name, 1) for name in filters])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> bool:
        """Sign and send; False while offline.

        paho would queue what is published offline and flood the broker later; what must survive
        an outage lies in the spool, and states are published anew on every CONNACK.
        """
        if not self._up:
            return False
        info = self._client.publish(topic, payload, qos, retain, self._signed(topic, payload))
        return info.rc == MQTTErrorCode.MQTT_ERR_SUCCESS

    def _signed(self, topic: str, payload: bytes) -> Properties:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, self._identity.sign(topic, payload))]
        return properties

    def _on_pre_connect(self, client: mqtt.Client, userdata: Any) -> None:
        # A will is fixed at connect time, so each connection gets one with an id of its own.
        self._connection_id = secrets.token_hex(8)
        topic, payload = self._will(self._connection_id)
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, self._identity.sign(topic, payload))]
        client.will_set(topic, payload, qos=1, retain=True, properties=properties)

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._post(LinkDown(f"the broker refuses the connection: {reason}"))
            return
        self._up = True
        self._post(LinkUp(self._connection_id))

    def _on_connect_fail(self, client: mqtt.Client, userdata: Any) -> None:
        self._post(
            LinkDown(f"no broker answers at {self._config.host}:{self._config.port}; trying on")
        )

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        self._up = False
        self._post(LinkDown(f"disconnected: {reason}"))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # a broken broker; letting it through would end paho's thread for good
        pairs = getattr(message.properties, "UserProperty", None) or []
        signature = next((value for key, value in pairs if key == SIGNATURE_PROPERTY), "")
        self._post(Inbound(topic, bytes(message.payload), signature))
