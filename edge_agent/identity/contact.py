"""The first contact: a device with nothing but a code, or with a certificate that has expired.

1. Without a code's help nothing is believed: the CA certificate is fetched over TLS from whoever
   answers, and kept only if its fingerprint stands in the code. Nothing is told meanwhile.
2. Over TLS that this CA vouches for, the device asks: its request, signed by its own key, in a
   message signed by the key that the code's secret gives (or, without a code, by its pinned key).
3. The answer is checked by itself: name, key, CA.

Cut off anywhere, the same code and key may begin again; another key may not.
"""

from __future__ import annotations

import queue
import secrets
from pathlib import Path
from typing import Any

import msgspec
import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.bounded_client import BoundedClient
from edge_agent.clock import SystemClock
from edge_agent.config import DeviceSection, MqttSection
from edge_agent.errors import AgentError
from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.device_key import Identity
from edge_agent.identity.tls import TimedContext, client_context
from edge_agent.transport import set_transport
from edge_contract import __version__
from edge_contract.codec import decode_json, encode_json
from edge_contract.enrol_code import EnrolCode
from edge_contract.errors import ExitCode
from edge_contract.messages import CertificateAnswer, CertificateAsk
from edge_contract.signing import SIGNATURE_PROPERTY, sign_message
from edge_contract.topics import CA_NAME, CODE_PREFIX, EVERYONE, topic

ASK_AGAIN_S = 5.0
TIMEOUT_S = 60.0
_DOCS = "how-to/secure-fleet.md"


class Server(msgspec.Struct, frozen=True):
    """Where devices without a certificate are heard."""

    host: str
    port: int


class Contact:
    """Asks for a certificate.

    Args:
        device: who asks.
        mqtt_section: transport, proxy, and where the enrolment listener is.
        identity: the device's key.
        files: where CA and certificate go.
        clock: the device's clocks.
        server: ``HOST:PORT`` of the listener instead; "" for the configured one.
        timeout_s: how long to wait for an answer.

    Raises:
        AgentError: ``server`` is not of that form.
    """

    def __init__(
        self,
        device: DeviceSection,
        mqtt_section: MqttSection,
        identity: Identity,
        files: CertificateFiles,
        clock: SystemClock,
        *,
        server: str = "",
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._device = device
        self._mqtt = mqtt_section
        self._identity = identity
        self._files = files
        self._server = read_server(server, mqtt_section)
        self._clock = clock
        self._timeout_s = timeout_s

    def enrol(self, code: EnrolCode) -> None:
        """Get the first certificate, or go on where a power cut ended an earlier attempt.

        Raises:
            AgentError: no answer, or refused; says why.
            TrustError: the server is not this fleet's, or what it sent is not this device's.
        """
        if not self._files.has_ca(code.ca):
            self._files.keep_ca(self._fetch_ca(), code.ca)
        self._ask(code.id, code.key())

    def recertify(self) -> bool:
        """Show the pinned key instead of a certificate that no broker accepts any more.

        Returns:
            whether there is a new one.

        Raises:
            AgentError, TrustError: as ``enrol``.
        """
        return self._ask("", None)

    def _fetch_ca(self) -> bytes:
        name = topic(self._device.fleet, EVERYONE, "enrolled", CA_NAME)
        context = client_context(None, reference_s=lambda: 0.0)
        with _Line(self._mqtt, self._server, context, "", [name], self._clock) as line:
            return line.receive(name, self._timeout_s)

    def _ask(self, code: str, key: Ed25519PrivateKey | None) -> bool:
        if not self._files.ca_path.exists():
            raise AgentError(
                "this device knows no CA yet", hint="edge-agent enroll --config FILE --code CODE"
            )
        device, nonce = self._device, secrets.token_hex(16)
        name = topic(device.fleet, EVERYONE, "enroll", f"{CODE_PREFIX}{nonce}")
        answers = topic(device.fleet, EVERYONE, "enrolled", nonce)
        payload = encode_json(
            CertificateAsk(
                device=device.id,
                csr=self._identity.request(device.fleet, device.id),
                code=code,
                hardware=device.hardware,
                line=device.line,
                agent_version=__version__,
            )
        )
        signature = sign_message(key, name, payload) if key else self._identity.sign(name, payload)
        context = client_context(self._files.ca_path, reference_s=lambda: 0.0)
        with _Line(self._mqtt, self._server, context, nonce, [answers], self._clock) as line:
            data = line.receive(answers, self._timeout_s, again=(name, payload, signature))
        answer = decode_json(data, CertificateAnswer, what="the fleet's answer")
        if not answer.accepted:
            raise AgentError(
                f"the fleet refuses: {answer.reason}",
                hint="at the manager: edge-fleet enroll-code",
                exit_code=ExitCode.AUTH,
                docs=_DOCS,
            )
        return self._files.accept(answer.chain)


class _Line:
    """One connection to the enrolment listener, for one question."""

    def __init__(
        self,
        section: MqttSection,
        server: Server,
        context: TimedContext,
        client_id: str,
        filters: list[str],
        clock: SystemClock,
    ) -> None:
        self._server = server
        self._context = context
        self._clock = clock
        self._inbox: queue.SimpleQueue[tuple[str, bytes] | str] = queue.SimpleQueue()
        client = BoundedClient(
            CallbackAPIVersion.VERSION2,
            client_id=client_id or secrets.token_hex(16),
            protocol=mqtt.MQTTv5,
            transport=section.transport,
        )
        set_transport(client, section)
        client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        self._client = client
        self._filters = filters

    def __enter__(self) -> _Line:
        try:
            self._client.connect(self._server.host, self._server.port)
        except OSError as error:
            raise AgentError(
                f"no enrolment server at {self._server.host}:{self._server.port}:"
                f" {self._context.refusal or error}",
                hint="--server HOST:PORT names the broker's listener for enrolment",
                exit_code=ExitCode.NETWORK,
            ) from error
        self._client.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def receive(
        self, name: str, timeout_s: float, again: tuple[str, bytes, str] | None = None
    ) -> bytes:
        """The payload that comes on ``name``; ``again`` is published until then.

        Raises:
            AgentError: none came in time, or the broker refuses to subscribe.
        """
        until_s = self._clock.monotonic_s() + timeout_s
        subscribed = False
        while (left_s := until_s - self._clock.monotonic_s()) > 0:
            try:
                item = self._inbox.get(timeout=min(left_s, ASK_AGAIN_S))
            except queue.Empty:
                item = "ask" if subscribed else ""
            if isinstance(item, tuple):
                if item[0] == name:
                    return item[1]
            elif item == "ask":
                subscribed = True
                if again is not None:
                    self._publish(*again)
            elif item:
                raise AgentError(item, exit_code=ExitCode.NETWORK)
        raise AgentError(
            f"{self._server.host}:{self._server.port} is there, but the fleet did not answer"
            f" within {timeout_s:g} s; the same code may be used again",
            hint="does the manager run? edge-fleet doctor",
            exit_code=ExitCode.NETWORK,
        )

    def _publish(self, name: str, payload: bytes, signature: str) -> None:
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, signature)]
        self._client.publish(name, payload, 1, False, properties)

    def _on_connect(
        self, client: mqtt.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        if reason.is_failure:
            self._inbox.put(f"the broker refuses the connection: {reason}")
            return
        client.subscribe([(name, 1) for name in self._filters])

    def _on_subscribe(
        self, client: mqtt.Client, userdata: Any, mid: int, reasons: list[Any], properties: Any
    ) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        self._inbox.put(f"the broker refuses to subscribe: {refused[0]}" if refused else "ask")

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        try:
            self._inbox.put((message.topic, bytes(message.payload)))
        except UnicodeDecodeError:
            return


def read_server(text: str, section: MqttSection) -> Server:
    """``HOST:PORT`` of ``--server``, or what the configuration says.

    Raises:
        AgentError: not of that form.
    """
    if not text:
        return Server(section.enroll_host or section.host, section.enroll_port)
    host, colon, port = text.rpartition(":")
    if not colon:
        host, port = text, str(section.enroll_port)
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise AgentError(f"--server {text!r}: expected HOST:PORT", exit_code=ExitCode.USAGE)
    return Server(host.strip("[]"), int(port))


def certificate_files(device: DeviceSection, identity: Identity) -> CertificateFiles:
    """The files of a configured device."""
    return CertificateFiles(Path(device.state_dir), device.fleet, device.id, identity.public)
