"""A fleet with a CA: real certificates, real mosquitto with the generated settings, a manager."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt
from cryptography import x509
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig, DeviceSection, MqttSection, SourceSection, TrustSection
from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.contact import Contact, certificate_files
from edge_agent.identity.device_key import Identity
from edge_agent.identity.tls import client_context
from edge_contract.enrol_code import parse_code
from edge_contract.signing import SIGNATURE_PROPERTY, public_bytes
from fleet.clock import SystemClock as FleetClock
from fleet.identity.authority import Authority, make_authority, open_authority
from fleet.identity.issuers import Issuers
from fleet.identity.mosquitto_settings import Ports, write_revocations, write_settings
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.loop import Manager
from fleet.repository.tuf_repository import Repository
from fleet.service import FleetService
from fleet.store import Store, identity, open_store
from tests.manager.simulated_device import wait_until
from tests.programs import require_program

FLEET = "shop"
PASSPHRASE = "correct horse battery"
HARDWARE = "generic-x86-64"
LINE = "digits"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class SecureFleet:
    """Below one directory: ``ca`` (the offline machine), ``state`` (the manager), ``broker``."""

    def __init__(self, home: Path, *, websocket: bool = False) -> None:
        self.mosquitto = require_program("mosquitto")
        self.home = home
        self.clock = FleetClock()
        make_authority(home / "ca", FLEET, PASSPHRASE, now_s=self.clock.wall_s())
        self.authority: Authority = open_authority(home / "ca", PASSPHRASE)
        self.issuers = Issuers(home / "state" / "identity", FLEET)
        self.install_issuer()
        self.authority.sign_server(
            ["localhost", "127.0.0.1"], home / "server", now_s=self.clock.wall_s(), days=30
        )
        self.ports = Ports(
            mqtt=free_port(),
            enroll=free_port(),
            websocket=free_port() if websocket else 0,
            enroll_websocket=free_port() if websocket else 0,
            host="127.0.0.1",
        )
        self.configure_broker()
        self.process: subprocess.Popen[bytes] | None = None
        self.start_broker()
        self.repository = Repository(home / "state", FLEET, self.clock.wall_s)
        self.repository.initialise()
        self.director = public_bytes(self.repository.director_key())
        self.manager: Manager | None = None
        self.clients: list[Peer] = []

    @property
    def store(self) -> Store:
        assert self.manager is not None
        return self.manager.store

    @property
    def service(self) -> FleetService:
        assert self.manager is not None
        return FleetService(self.manager)

    def install_issuer(self, *, days: float = 180, distrust_old: bool = False) -> None:
        now_s = self.clock.wall_s()
        signed = self.authority.sign_issuer(self.issuers.request(), now_s=now_s, days=days)
        ca = (self.home / "ca" / "ca.crt.pem").read_bytes()
        self.issuers.install(
            signed.encode(), ca, now_s=now_s, revoked=[], distrust_old=distrust_old
        )

    def configure_broker(self) -> Path:
        user = "root" if os.geteuid() == 0 else ""
        return write_settings(
            self.issuers, self.home / "server", self.home / "broker", self.ports, user=user
        )

    def start_broker(self) -> None:
        log = (self.home / "broker.log").open("ab")
        config = self.home / "broker" / "mosquitto.conf"
        self.process = subprocess.Popen([self.mosquitto, "-c", str(config)], stdout=log, stderr=log)
        wait_until(self._listens, what=f"for mosquitto: {self.broker_log()}")

    def stop_broker(self) -> None:
        if self.process is not None:
            self.process.terminate()
            self.process.wait()

    def reload_broker(self) -> None:
        """The new revocation list, and SIGHUP, as `edge-fleet broker crl --reload` does."""
        with self.store.read() as tx:
            locked_out = identity.locked_out(tx, self.clock.wall_s())
        write_revocations(self.issuers, self.home / "broker" / "crl.pem", locked_out)
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)
        time.sleep(0.3)

    def broker_log(self) -> str:
        return (self.home / "broker.log").read_text()

    def start_manager(self) -> Manager:
        self.manager = Manager(
            fleet=FLEET,
            store=open_store(self.home / "state" / "fleet.db", fleet=FLEET),
            repository=self.repository,
            address=BrokerAddress("localhost", self.ports.mqtt, tls=True),
            clock=self.clock,
            issuers=self.issuers,
        )
        self.manager.start()
        wait_until(lambda: self.manager and self.manager.connected, what="for the manager")
        return self.manager

    def stop_manager(self) -> None:
        if self.manager is not None:
            self.manager.stop()
            self.manager.store.close()
            assert self.manager.failure is None
            self.manager = None

    def code(self, **wish: Any) -> str:
        return self.service.make_codes(who="test", **wish)[0]

    def kit(self, name: str, place: str = "") -> DeviceKit:
        """The directory of one device, with its key."""
        return DeviceKit(self, name, place or name)

    def enrolled(self, name: str) -> DeviceKit:
        kit = self.kit(name)
        kit.enrol(self.code())
        return kit

    def findings(self, kind: str) -> list[Any]:
        return [f for f in self.service.findings() if f.kind == kind]

    def close(self) -> None:
        for client in self.clients:
            client.close()
        self.stop_manager()
        self.stop_broker()

    def _listens(self) -> bool:
        # WebSockets are opened last.
        last = self.ports.enroll_websocket or self.ports.mqtt
        try:
            with socket.create_connection(("127.0.0.1", last), 0.2):
                return True
        except OSError:
            return False


class DeviceKit:
    """A device's state directory, key and certificate, and connections that use them."""

    def __init__(self, fleet: SecureFleet, name: str, place: str) -> None:
        self.fleet = fleet
        self.name = name
        self.state = fleet.home / "devices" / place
        self.state.mkdir(parents=True, exist_ok=True)
        self.identity = Identity(self.state / "device-key.pem")
        self.section = DeviceSection(
            fleet=FLEET, id=name, hardware=HARDWARE, line=LINE, state_dir=str(self.state)
        )
        self.files: CertificateFiles = certificate_files(self.section, self.identity)

    def mqtt(self, **changes: Any) -> MqttSection:
        ports = self.fleet.ports
        return MqttSection(
            **{
                "host": "localhost",
                "port": ports.mqtt,
                "enroll_port": ports.enroll,
                "tls": True,
                "reconnect_max_s": 1.0,
                **changes,
            }
        )

    def config(self, **changes: Any) -> AgentConfig:
        return AgentConfig(
            device=self.section,
            trust=TrustSection(root="/none"),
            source=SourceSection(kind="directory", path="/none"),
            mqtt=self.mqtt(**changes),
        )

    def contact(self, timeout_s: float = 10.0, **changes: Any) -> Contact:
        section = self.mqtt(**changes)
        return Contact(
            self.section,
            section,
            self.identity,
            self.files,
            SystemClock(),
            timeout_s=timeout_s,
        )

    def enrol(self, code: str, timeout_s: float = 10.0) -> None:
        self.contact(timeout_s).enrol(parse_code(code))

    def leaf(self) -> x509.Certificate:
        path = self.state / "identity" / "chain.pem"
        return x509.load_pem_x509_certificate(path.read_bytes())

    def peer(self, **options: Any) -> Peer:
        """A raw MQTT client with this device's certificate."""
        context = client_context(
            self.files.ca_path,
            chain=self.files.choose(),
            key=self.identity.path,
            reference_s=lambda: 0.0,
        )
        ports = self.fleet.ports
        port = ports.websocket if options.get("websocket") else ports.mqtt
        peer = Peer(port, context, self.identity, **options)
        self.fleet.clients.append(peer)
        return peer

    def topic(self, tail: str) -> str:
        return f"edge/v1/{FLEET}/{self.name}/{tail}"


class Peer:
    """A client that says whatever a test wants and keeps what it hears."""

    def __init__(
        self,
        port: int,
        context: Any,
        identity: Identity | None = None,
        *,
        client_id: str = "",
        connect: bool = True,
        websocket: bool = False,
    ) -> None:
        self.heard: queue.Queue[mqtt.MQTTMessage] = queue.Queue()
        self.connects = 0
        self.reasons: list[str] = []
        self._identity = identity
        self._subscribed: queue.Queue[list[Any]] = queue.Queue()
        client = mqtt.Client(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            protocol=mqtt.MQTTv5,
            transport="websockets" if websocket else "tcp",
        )
        client.tls_set_context(context)
        client.on_connect = self._on_connect
        client.on_disconnect = lambda c, u, f, reason, p: self.reasons.append(str(reason))
        client.on_message = lambda c, u, message: self.heard.put(message)
        client.on_subscribe = lambda c, u, mid, reasons, p: self._subscribed.put(reasons)
        self.client = client
        self.port = port
        if connect:
            self.connect()

    def connect(self) -> Peer:
        self.client.connect("localhost", self.port)
        self.client.loop_start()
        wait_until(lambda: self.connects, what="for a CONNACK")
        return self

    def refused(self, timeout_s: float = 3.0) -> bool:
        """Whether no connection comes about."""
        try:
            self.client.connect("localhost", self.port)
        except OSError:
            return True
        self.client.loop_start()
        time.sleep(timeout_s / 3)
        return self.connects == 0

    def subscribe(self, name: str) -> list[Any]:
        self.client.subscribe(name, 1)
        return self._subscribed.get(timeout=5)

    def say(
        self,
        name: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        signature: str | None = None,
    ) -> str:
        """Publish, signed by this device's key; returns the PUBACK's reason."""
        properties = Properties(PacketTypes.PUBLISH)
        if signature is None and self._identity is not None:
            signature = self._identity.sign(name, payload)
        if signature:
            properties.UserProperty = [(SIGNATURE_PROPERTY, signature)]
        info = self.client.publish(name, payload, qos, retain, properties)
        with contextlib.suppress(RuntimeError, ValueError):
            info.wait_for_publish(5)
        return ""

    def hears(self, name: str, timeout_s: float = 5.0) -> bytes | None:
        """The next payload on a topic; None when none comes."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                message = self.heard.get(timeout=left_s)
                if message.topic == name:
                    return bytes(message.payload)
        return None

    def hears_until(self, name: str, payload: bytes, timeout_s: float = 5.0) -> list[Any]:
        """Everything that was heard before ``payload`` came on a topic, which must come."""
        until_s = time.monotonic() + timeout_s
        heard: list[Any] = []
        while (left_s := until_s - time.monotonic()) > 0:
            with contextlib.suppress(queue.Empty):
                message = self.heard.get(timeout=left_s)
                if (message.topic, bytes(message.payload)) == (name, payload):
                    return heard
                heard.append(message)
        raise AssertionError(f"{payload!r} did not come on {name}")

    def close(self) -> None:
        self.client.disconnect()
        self.client.loop_stop()

    def _on_connect(self, client: Any, userdata: Any, flags: Any, reason: Any, p: Any) -> None:
        if not reason.is_failure:
            self.connects += 1


def eventually(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    return wait_until(condition, timeout_s)
