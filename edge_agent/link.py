"""The MQTT link: one paho client whose network thread only posts events.

Nothing here decides anything. The loop owns all state; this file turns callbacks into events and
signs what goes out. No session is relied on: on every CONNACK the loop subscribes and publishes
anew, because a broker may have forgotten everything.
"""

from __future__ import annotations

import secrets
import ssl
import threading
from collections.abc import Callable
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion, MQTTErrorCode
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.bounded_client import BoundedClient, connect_properties
from edge_agent.clock import SystemClock
from edge_agent.config import MqttSection
from edge_agent.identity import Identity
from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.tls import TimedContext, client_context
from edge_agent.transport import set_transport
from edge_contract.signing import SIGNATURE_PROPERTY


class LinkUp(msgspec.Struct, frozen=True):
    """A CONNACK came. ``connection_id`` stands in the will of this very connection."""

    connection_id: str


class LinkDown(msgspec.Struct, frozen=True):
    """The connection ended, or could not be made.

    shared: the broker gave this device's session to another connection with the same identity.
    tls_refused: TLS itself failed, on this side or the broker's, or there is nothing to show.
    unread_bytes: of a message that was cut off.
    """

    reason: str
    shared: bool = False
    tls_refused: bool = False
    unread_bytes: int = 0


class SubscriptionRefused(msgspec.Struct, frozen=True):
    """The broker let the device in, but not to these topics: orders or answers cannot reach it."""

    filters: tuple[str, ...]
    reason: str


class Inbound(msgspec.Struct, frozen=True):
    """A message came."""

    topic: str
    payload: bytes
    signature: str


LinkEvent = LinkUp | LinkDown | SubscriptionRefused | Inbound

SHARED_WAIT_S = 30
"""Pause before going back to a broker that gave the session away: two devices with one identity
would otherwise take it from each other several times a second."""
SHORT_S = 10.0
SHORT_MAX = 3
"""So many accepted connections in a row that ended within ``SHORT_S`` are taken for a shared
identity: mosquitto 2.0 does not tell a client with a certificate that its session was taken."""
_TAKEN_OVER = 0x8E
_UNSPECIFIED = 0x80


class Link:
    """Connects, reconnects with jittered back-off, signs and publishes.

    Args:
        config: where the broker is.
        user: ``{fleet}/{device}``; the client id is the same with a dot, because rumqttd takes
            no slash in one (and mosquitto, told ``use_username_as_clientid``, ignores it).
        identity: signs every message, and is the key of the certificate.
        post: receives every ``LinkEvent``, from the network thread.
        will: (topic, payload) of the will for a given connection id.
        certificate: which certificate to show, where ``config.tls`` is set.
        reference_s: the time that a broker's certificate is checked against, unix seconds.
        clock: tells short connections from long ones.
    """

    def __init__(
        self,
        config: MqttSection,
        user: str,
        identity: Identity,
        post: Callable[[LinkEvent], None],
        will: Callable[[str], tuple[str, bytes]],
        *,
        certificate: CertificateFiles | None = None,
        reference_s: Callable[[], float] = lambda: 0.0,
        clock: SystemClock | None = None,
    ) -> None:
        self._config = config
        self._identity = identity
        self._post = post
        self._will = will
        self._connection_id = ""
        self._up = False
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=user.replace("/", "."),
            protocol=mqtt.MQTTv5,
            transport=config.transport,
        )
        set_transport(client, config)
        self._certificate = certificate if config.tls else None
        self._reference_s = reference_s
        self._tls: TimedContext | None = None
        self._files_trouble = ""
        self._monotonic_s = (clock or SystemClock()).monotonic_s
        self._up_since_s = 0.0
        self._short_count = 0
        self._shared = False
        self._pause_s = 0.0
        if config.tls:
            # Before the first attempt, so that no attempt can ever be made without.
            client.tls_set_context(TimedContext(ssl.PROTOCOL_TLS_CLIENT))
        self._asked: dict[int, tuple[str, ...]] = {}
        self._asking = threading.Lock()
        self._turning = threading.Lock()
        """Held while the network thread is ended or begun."""
        self._stopped = False
        client.username_pw_set(user)
        client.max_inflight_messages_set(64)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_connect_fail = self._on_connect_fail
        client.on_disconnect = self._on_disconnect
        client.on_message = self._on_message
        client.on_subscribe = self._on_subscribe
        self._client = client
        self._set_delays()

    @property
    def up(self) -> bool:
        """Whether the last thing heard was a CONNACK."""
        return self._up

    def start(self) -> None:
        """Begin to connect; never fails, keeps trying."""
        self._client.connect_async(
            self._config.host,
            self._config.port,
            keepalive=self._config.keepalive_s,
            properties=connect_properties(),
        )
        self._client.loop_start()

    def stop(self) -> None:
        """Disconnect in order (no will) and end the network thread."""
        self._stopped = True
        with self._turning:
            self._client.disconnect()
            self._client.loop_stop()

    def subscribe(self, filters: list[str]) -> None:
        """Subscribe at QoS 1; what the broker refuses is posted."""
        # The answer may come on the network thread before this one has noted what was asked.
        with self._asking:
            _, mid = self._client.subscribe([(name, 1) for name in filters])
            if mid is not None:
                self._asked[mid] = tuple(filters)

    def pace(self, pause_s: float) -> None:
        """Wait at least so long before coming back, when the connection ends."""
        if pause_s != self._pause_s:
            self._pause_s = pause_s
            self._set_delays()

    def _set_delays(self) -> None:
        least_s = max(1, SHARED_WAIT_S if self._shared else 0, int(self._pause_s))
        self._client.reconnect_delay_set(least_s, max(least_s, int(self._config.reconnect_max_s)))

    def reconnect(self) -> None:
        """End the connection and come back at once, with the certificate that is newest.

        On a thread of its own: the network thread may take a while to end, in the middle of a
        connection attempt or of a handshake, and the loop must come round.
        """
        threading.Thread(target=self._come_back, name="link-reconnect", daemon=True).start()

    def _come_back(self) -> None:
        with self._turning:
            if self._stopped:
                return
            self._client.disconnect()
            self._client.loop_stop()
            self._up = False
            self.start()

    def unsubscribe(self, filters: list[str]) -> None:
        """Hear these no longer."""
        self._client.unsubscribe(filters)

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
        self._asked.clear()
        if self._config.tls:
            self._set_tls(client)
        # A will is fixed at connect time, so each connection gets one with an id of its own.
        self._connection_id = secrets.token_hex(8)
        topic, payload = self._will(self._connection_id)
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, self._identity.sign(topic, payload))]
        client.will_set(topic, payload, qos=1, retain=True, properties=properties)

    def _set_tls(self, client: mqtt.Client) -> None:
        """The certificate may be another one with each attempt.

        Raises:
            OSError: the device is not enrolled; paho takes it for an attempt that failed.
        """
        if self._certificate is None:
            raise FileNotFoundError("this device has no certificate")
        self._tls = None
        self._files_trouble = ""
        chain = self._certificate.choose()
        try:
            self._tls = client_context(
                self._certificate.ca_path,
                chain=chain,
                key=self._identity.path,
                reference_s=self._reference_s,
            )
        except OSError as error:
            self._files_trouble = f"{error.strerror or error}, in {chain.parent}"
            raise
        # paho's public method takes a context only once.
        client._ssl_context = self._tls

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._post(LinkDown(f"the broker refuses the connection: {reason}"))
            return
        self._up = True
        self._up_since_s = self._monotonic_s()
        if self._certificate is not None:
            self._certificate.connected()
        self._post(LinkUp(self._connection_id))

    def _on_connect_fail(self, client: mqtt.Client, userdata: Any) -> None:
        where = f"{self._config.host}:{self._config.port}"
        refusal = self._tls_refusal()
        lost = self._certificate is not None and self._certificate.lost
        if refusal:
            reason = f"no safe connection to {where}: {refusal}; trying on"
        elif self._files_trouble:
            reason = (
                f"key, certificate or CA cannot be used: {self._files_trouble};"
                " get a code, and run: edge-agent enroll --config FILE --code CODE"
            )
        elif lost:
            reason = "the certificate is lost or damaged; the device's key will get another"
        elif self._certificate is not None and not self._certificate.enrolled:
            reason = "not enrolled yet: edge-agent enroll --config FILE --code CODE"
        else:
            reason = f"no broker answers at {where}; trying on"
        self._post(LinkDown(reason, tls_refused=bool(refusal) or lost))

    def _tls_refusal(self) -> str:
        return self._tls.refusal if self._tls is not None else ""

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[Any], properties: Any
    ) -> None:
        with self._asking:
            asked = self._asked.pop(mid, ())
        refused = [
            (name, str(reason))
            for name, reason in zip(asked, reasons, strict=False)
            if reason.is_failure
        ]
        if refused:
            names = tuple(name for name, _ in refused)
            self._post(SubscriptionRefused(names, refused[0][1]))

    def _on_disconnect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        was_up, self._up = self._up, False
        refusal = "" if was_up else self._tls_refusal()
        if self._taken_over(was_up, reason):
            self._shared = True
            self._set_delays()
            text = (
                "accepted connections end at once: another agent connects with this device's"
                " identity; one of the two must go, or get a name of its own: [device] id in its"
                " configuration, and a key that was not copied"
            )
            self._post(LinkDown(text, shared=True, unread_bytes=self._client.unread_bytes))
        elif refusal:
            self._post(LinkDown(f"the broker refuses TLS: {refusal}", tls_refused=True))
        else:
            unread_bytes = self._client.unread_bytes
            self._post(LinkDown(f"disconnected: {_why(reason)}", unread_bytes=unread_bytes))

    def _taken_over(self, was_up: bool, reason: Any) -> bool:
        if reason.value == _TAKEN_OVER:
            return True
        if was_up:
            short = reason.is_failure and self._monotonic_s() - self._up_since_s < SHORT_S
            self._short_count = self._short_count + 1 if short else 0
        return was_up and self._short_count >= SHORT_MAX

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            topic = message.topic
        except UnicodeDecodeError:
            return  # a broken broker; letting it through would end paho's thread for good
        pairs = getattr(message.properties, "UserProperty", None) or []
        signature = next((value for key, value in pairs if key == SIGNATURE_PROPERTY), "")
        self._post(Inbound(topic, bytes(message.payload), signature))


def _why(reason: Any) -> str:
    """A broker's reason; where it says none, what that mostly means."""
    if reason.value != _UNSPECIFIED:
        return str(reason)
    return (
        "the broker or the network ended the connection and gave no reason; if that repeats, see"
        " whether another agent runs under this device's name"
    )
