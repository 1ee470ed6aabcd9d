"""The manager's MQTT client: paho's thread posts to one queue and decides nothing.

Messages are acknowledged by hand, after the commit. No session is kept: whatever the broker
forgot, the manager subscribes to and publishes anew on every CONNACK.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.receipt import SignedMessage
from edge_contract.signing import SIGNATURE_PROPERTY
from fleet.clock import Clock
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.litter import is_litter, with_options
from fleet.manager.quota import Quota

_KEEPALIVE_S = 20
_RECONNECT_MAX_S = 5
_IN_FLIGHT = 1000
"""Messages under way each way; the broker's own limit may be lower."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Connected:
    """A CONNACK came and the subscriptions stand. ``connection`` counts up with every CONNACK."""

    connection: int


@dataclass(frozen=True)
class Disconnected:
    """The connection ended, or could not be made."""

    reason: str


@dataclass(frozen=True)
class Inbound:
    """A message came; ``mid`` and ``connection`` are what its acknowledgement needs."""

    topic: str
    payload: bytes
    signature: str
    retained: bool
    mid: int
    qos: int
    connection: int
    at_s: float

    @classmethod
    def by_hand(cls, message: SignedMessage, at_s: float) -> Inbound:
        """One that a person carried: retained, since its device is not online for it."""
        return cls(
            topic=message.topic,
            payload=message.payload,
            signature=message.signature,
            retained=True,
            mid=0,
            qos=1,
            connection=-1,
            at_s=at_s,
        )


LinkEvent = Connected | Disconnected | Inbound


class SentMessage:
    """A message that was handed to paho."""

    def __init__(self, info: mqtt.MQTTMessageInfo) -> None:
        self._info = info

    def is_published(self) -> bool:
        """Whether it left for the socket, or was given up."""
        try:
            return self._info.is_published()
        except (RuntimeError, ValueError):
            return True  # paho's way to say that the connection was lost under it


class Connection:
    """Connects, reconnects, publishes.

    Args:
        address: the broker.
        user: the user name, ``{fleet}/{name}``.
        filters: what to subscribe to, at QoS 1, on every CONNACK.
        post: takes every ``LinkEvent``, on paho's thread.
        clock: stamps messages as they come.
        tls: makes the TLS settings, for an address with TLS: anew for each attempt to connect, for
            a certificate may have been renewed since. It is told how many attempts have failed.
    """

    def __init__(
        self,
        address: BrokerAddress,
        user: str,
        filters: Sequence[str],
        post: Callable[[LinkEvent], None],
        clock: Clock,
        tls: Callable[[int], ssl.SSLContext] | None = None,
    ) -> None:
        self._address = address
        self.quota = Quota(clock.monotonic_s)
        self._filters = with_options(filters)
        self._post = post
        self._clock = clock
        self._up = False
        self._count = 0
        self._failures_count = 0
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            # rumqttd refuses a "/" in client ids; ids of ours never hold a ".".
            client_id=user.replace("/", "."),
            protocol=mqtt.MQTTv5,
            transport="websockets" if address.websocket else "tcp",
            manual_ack=True,
        )
        if address.websocket:
            client.ws_set_options(path=address.path)
        self._tls = tls if address.tls else None
        if self._tls is not None:
            client.tls_set_context(self._tls(0))
            client.on_pre_connect = self._on_pre_connect
        client.username_pw_set(user)
        client.reconnect_delay_set(1, _RECONNECT_MAX_S)
        client.max_inflight_messages_set(_IN_FLIGHT)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        self._client = client

    @property
    def up(self) -> bool:
        """Whether the subscriptions of this connection stand."""
        return self._up

    def start(self) -> None:
        """Begin to connect; keeps trying until ``stop``."""
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
        properties.ReceiveMaximum = _IN_FLIGHT
        # The embedded broker and the settings for mosquitto refuse longer ones; others may not.
        properties.MaximumPacketSize = 2 * MESSAGE_LIMIT_BYTES
        self._client.connect_async(
            self._address.host,
            self._address.port,
            keepalive=_KEEPALIVE_S,
            clean_start=True,
            properties=properties,
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect in order and end paho's thread."""
        self._client.disconnect()
        self._client.loop_stop()
        self._up = False

    def publish(
        self, topic: str, payload: bytes, *, qos: int, retain: bool = False, signature: str = ""
    ) -> SentMessage | None:
        """Hand a message to paho; None while there is no connection.

        paho would queue what is published offline. Nothing of ours needs that: what matters is in
        the store and published anew, and devices ask again for the rest.
        """
        if not self._up:
            return None
        properties = None
        if signature:
            properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
            properties.UserProperty = [(SIGNATURE_PROPERTY, signature)]
        info = self._client.publish(topic, payload, qos, retain, properties)
        return None if info.rc == MQTTErrorCode.MQTT_ERR_NO_CONN else SentMessage(info)

    def acknowledge(self, messages: Iterable[Inbound]) -> None:
        """Acknowledge messages of the connection that is still there."""
        for message in messages:
            # A packet id means something only within the connection that it came over.
            if message.connection == self._count and self._up:
                self._client.ack(message.mid, message.qos)

    def _on_pre_connect(self, client: mqtt.Client, userdata: Any) -> None:
        assert self._tls is not None
        # paho takes a context once, by its public method; a renewed certificate needs another.
        client._ssl_context = self._tls(self._failures_count)

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._post(Disconnected(f"{self._address} refuses the connection: {reason}"))
            return
        self._count += 1
        # Up only with the SUBACK: paho sends again what the last connection did not finish right
        # after this callback, and an old ``desired`` must not overtake the one in the store.
        client.subscribe(self._filters)

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[Any], properties: Any
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            self._post(Disconnected(f"{self._address} refuses to subscribe: {refused[0]}"))
            return
        self._up = True
        self._failures_count = 0
        self._post(Connected(self._count))

    def _on_connect_fail(self, client: mqtt.Client, userdata: Any) -> None:
        self._failures_count += 1
        self._post(Disconnected(f"no broker answers at {self._address}"))

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        # In TLS 1.3 a refused certificate shows as a connection that ends before it is one.
        self._failures_count += not self._up
        self._up = False
        self._post(Disconnected(f"{self._address}: {reason}"))

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            name = message.topic
        except UnicodeDecodeError:
            client.ack(message.mid, message.qos)
            return
        if message.retain and is_litter(name):
            client.ack(message.mid, message.qos)
            if message.payload:  # what clears it comes back to us, empty
                self.quota.refuse(name, "retained")
                client.publish(name, b"", qos=0, retain=True)
            return
        if not self.quota.admits(name, message.qos):
            client.ack(message.mid, message.qos)
            return
        pairs = getattr(message.properties, "UserProperty", None) or []
        self._post(
            Inbound(
                topic=name,
                payload=bytes(message.payload),
                signature=next((v for k, v in pairs if k == SIGNATURE_PROPERTY), ""),
                retained=bool(message.retain),
                mid=message.mid,
                qos=message.qos,
                connection=self._count,
                at_s=self._clock.wall_s(),
            )
        )
