"""A device with a real key, a real MQTT connection and a spool, and nothing behind them.

It speaks the protocol of ``docs/protocols/mqtt.md`` and decides nothing: tests say what it does.
"""

from __future__ import annotations

import itertools
import secrets
import threading
import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import paho.mqtt.client as mqtt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_contract.codec import decode_json, decode_msgpack, encode_json, encode_msgpack
from edge_contract.configuration import (
    CONFIGURATION_TYPE,
    Configuration,
    decode_configuration,
)
from edge_contract.desired import DESIRED_TYPE, Desired, decode_desired
from edge_contract.intervals import IntervalSet
from edge_contract.messages import (
    Ack,
    BlobAsk,
    BlobBlock,
    BlobRefused,
    DeltaAsk,
    DeltaOffer,
    DriftWindow,
    Enrol,
    EnrolAnswer,
    Event,
    Online,
    RecordRefused,
    UpdateStatus,
)
from edge_contract.metadata import MetadataSet, decode_metadata_set
from edge_contract.signing import (
    SIGNATURE_PROPERTY,
    fingerprint,
    public_bytes,
    sign_message,
    verify_document,
    verify_message,
)
from edge_contract.topics import device_filters, metadata_topic, parse_topic, topic
from tests.device_words import said_state, said_summary
from tests.manager.bundles import HARDWARE

FLEET = "home"


def wait_until(ready: Callable[[], Any], timeout_s: float = 10.0, what: str = "") -> Any:
    """What ``ready`` answers once it is true."""
    until = time.monotonic() + timeout_s
    while not (answer := ready()):
        assert time.monotonic() < until, f"waited {timeout_s} s in vain {what}"
        time.sleep(0.01)
    return answer


class SimulatedDevice:
    """One device. Everything that it received can be read from its attributes.

    Args:
        name: its id.
        port: of the broker on the loopback.
        director: raw public key that acks and orders must be signed by.
    """

    def __init__(
        self, name: str, port: int, director: bytes, *, line: str = "digits", fleet: str = FLEET
    ) -> None:
        self.name = name
        self.line = line
        self.fleet = fleet
        self.key = Ed25519PrivateKey.generate()
        self.director = director
        self.boot_id = secrets.token_hex(4)
        self.connection_id = ""
        self.version = ""
        self.digest = ""
        self.fallback_digest = ""
        self.update_phase = ""
        self.held = False
        self.desired_epoch = 1
        self.desired_seq = 0
        self.enrolled: list[EnrolAnswer] = []
        self.desired: list[Desired | None] = []
        """Orders as they came; None for a topic that was cleared."""
        self.configurations: list[Configuration] = []
        self.more: dict[str, Any] = {}
        """Fields of its state that tests set beside those above."""
        self.metadata: list[MetadataSet] = []
        self.acked: dict[tuple[str, str], IntervalSet] = defaultdict(IntervalSet)
        """(boot_id, class) -> what the fleet said is committed."""
        self.blocks: list[BlobBlock] = []
        self.refused: list[BlobRefused] = []
        self.documents: list[tuple[str, bytes]] = []
        """(class, envelope) of commands and of answers to questions for the time."""
        self.records_refused: list[RecordRefused] = []
        self.offers: list[DeltaOffer] = []
        self.spooled: dict[tuple[str, str], set[int]] = defaultdict(set)
        self._outbox: dict[tuple[str, str, int], tuple[str, bytes]] = {}
        self._seqs: dict[str, Any] = defaultdict(lambda: itertools.count(1))
        self._port = port
        self._subscribed = threading.Event()
        self._client = self._new_client()

    # The connection. ----------------------------------------------------------------------------

    def connect(self) -> SimulatedDevice:
        """Connect (again) and go through what a device does on every CONNACK."""
        self._client.connect("127.0.0.1", self._port, keepalive=5)
        self._client.loop_start()
        assert self._subscribed.wait(5), "no SUBACK"
        return self

    def until_enrolled(self, timeout_s: float = 15.0) -> SimulatedDevice:
        """Announce until the manager answers: it may not have been there the first time."""
        until = time.monotonic() + timeout_s
        while not self.enrolled:
            assert time.monotonic() < until, f"{self.name} got no answer to its enrolment"
            time.sleep(0.3)
            self.announce()
        return self

    def announce(self) -> None:
        """What a device sends on every CONNACK; paho's thread calls it on reconnects."""
        self.say_online(True)
        self.enrol()
        self.say_state()
        self.resend()

    def disconnect(self) -> None:
        """Say good-bye and leave."""
        self.say_online(False)
        time.sleep(0.05)
        self._client.disconnect()
        self._client.loop_stop()

    def drop(self) -> None:
        """Lose the connection without a word: the broker publishes the will."""
        self._client.loop_stop()
        sock = self._client.socket()
        assert sock is not None
        sock.close()

    # What it says. ------------------------------------------------------------------------------

    def enrol(self, key: Ed25519PrivateKey | None = None) -> None:
        """Announce a key (its own) on ``_fleet/enroll``."""
        key = key or self.key
        announcement = Enrol(
            device=self.name,
            hardware=HARDWARE,
            line=self.line,
            public=public_bytes(key).hex(),
            agent_version="0.1.0",
        )
        to = topic(self.fleet, "_fleet", "enroll", self.name)
        self.send(to, encode_json(announcement), key=key)

    def say_online(self, online: bool) -> None:
        """``state/online``."""
        self.send(self._own("state", "online"), self._online(online), retain=True)

    def say_state(self, **changes: Any) -> None:
        """``state/agent`` from the attributes."""
        for name, value in changes.items():
            setattr(self, name, value)
        state = said_state(
            **self._header("state"),
            connection_id=self.connection_id,
            hardware=HARDWARE,
            device_key=fingerprint(public_bytes(self.key)),
            line=self.line,
            active_digest=self.digest,
            fallback_digest=self.fallback_digest,
            update_phase=self.update_phase,
            desired_epoch=self.desired_epoch,
            desired_seq=self.desired_seq,
            held=self.held,
            **self.more,
        )
        self.send(self._own("state", "agent"), encode_json(state), retain=True)

    def say_status(self, phase: str, desired: Desired, reason: str = "") -> None:
        """One step of an update, through the spool."""
        status = UpdateStatus(
            **self._header("status"),
            rollout=desired.rollout,
            desired_seq=desired.seq,
            digest=desired.manifest_digest,
            version=desired.version,
            phase=phase,  # type: ignore[arg-type]
            reason=reason,
        )
        self.record("status", "update", status.seq, encode_json(status))

    def say_event(self, name: str, severity: str = "info", **detail: Any) -> None:
        """One event, through the spool."""
        event = Event(
            **self._header("event"),
            name=name,
            severity=severity,  # type: ignore[arg-type]
            text=f"{name} happened",
            detail=detail,
        )
        self.record("event", name, event.seq, encode_json(event))

    def say_telemetry(self, *, seq: int = 0, seq_first: int = 0, late: bool = False) -> int:
        """One summary; with numbers of one's own it says what no correct device would."""
        if not seq:
            seq = next(self._seqs["telemetry"])
        summary = said_summary(
            ts=time.time(),
            seq=seq,
            seq_first=seq_first or seq,
            boot_id=self.boot_id,
            model_version=self.version,
            offline=late,
        )
        cls = "telemetry_backfill" if late else "telemetry"
        self.record(cls, "summary", seq, encode_json(summary))
        return seq

    def say_drift(self, sketch: bytes) -> None:
        """One drift window, through the spool."""
        seq = next(self._seqs["drift"])
        window = DriftWindow(
            schema=1,
            ts=time.time(),
            seq_first=seq,
            seq=seq,
            boot_id=self.boot_id,
            model_version=self.version,
            window_s=10.0,
            sketch=sketch,
        )
        self.record("drift", "summary", seq, encode_msgpack(window))

    def record(self, cls: str, name: str, seq: int, payload: bytes) -> None:
        """Spool one record and send it; it stays in the spool until it is acknowledged."""
        to = self._own(cls, name)
        counter = "telemetry" if cls == "telemetry_backfill" else cls
        self.spooled[self.boot_id, counter].add(seq)
        self._outbox[self.boot_id, counter, seq] = (to, payload)
        self.send(to, payload)

    def resend(self) -> None:
        """Send again whatever was not acknowledged."""
        for to, payload in list(self._outbox.values()):
            self.send(to, payload)

    def ask(self, digest: str, missing: list[tuple[int, int]], block_bytes: int = 4096) -> None:
        """``blob/ask``."""
        ask = BlobAsk(digest=digest, block_bytes=block_bytes, missing=missing)
        self.send(self._own("blob", "ask"), encode_json(ask))

    def ask_delta(self, digest: str, *have: str) -> DeltaOffer:
        """``blob/delta-ask``, and the answer."""
        before = len(self.offers)
        ask = DeltaAsk(digest=digest, have=list(have))
        self.send(self._own("blob", "delta-ask"), encode_json(ask))
        wait_until(lambda: len(self.offers) > before, what="for an offer")
        return self.offers[-1]

    def send(
        self, to: str, payload: bytes, *, retain: bool = False, key: Ed25519PrivateKey | None = None
    ) -> None:
        """Sign with ``key`` (its own) and publish."""
        properties = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, sign_message(key or self.key, to, payload))]
        self._client.publish(to, payload, 1, retain, properties)

    # What it does in most tests. ----------------------------------------------------------------

    def install(self, desired: Desired) -> None:
        """All steps of an update that goes well."""
        self.desired_seq = desired.seq
        for phase in ("accepted", "downloading", "staged", "self_test", "trial"):
            self.say_status(phase, desired)
        self.fallback_digest = self.digest
        self.version, self.digest = desired.version, desired.manifest_digest
        self.say_status("committed", desired)
        self.say_state()

    def fail(self, desired: Desired, reason: str = "golden vectors differ") -> None:
        """An update that ends in the self-test."""
        self.desired_seq = desired.seq
        for phase in ("accepted", "downloading", "staged", "self_test"):
            self.say_status(phase, desired)
        self.say_status("failed", desired, reason)
        self.say_state()

    def order(self, seq_above: int = 0, timeout_s: float = 10.0) -> Desired:
        """The newest order, once one with a number above ``seq_above`` is here."""

        def newest() -> Desired | None:
            found = self.desired[-1] if self.desired else None
            return found if found is not None and found.seq > seq_above else None

        found = wait_until(newest, timeout_s, f"for an order of {self.name}")
        assert isinstance(found, Desired)
        return found

    @property
    def unacknowledged(self) -> dict[tuple[str, str], set[int]]:
        """(boot_id, class) -> numbers in the spool that the fleet has not confirmed."""
        left = {
            stream: {seq for seq in seqs if seq not in self.acked[stream]}
            for stream, seqs in self.spooled.items()
        }
        return {stream: seqs for stream, seqs in left.items() if seqs}

    # What it hears. -----------------------------------------------------------------------------

    def _on_message(self, client: mqtt.Client, userdata: Any, message: mqtt.MQTTMessage) -> None:
        where = parse_topic(message.topic)
        payload = bytes(message.payload)
        kind = (where.cls, where.name)
        if where.cls == "metadata":
            if where.name == self.line:
                self.metadata.append(decode_metadata_set(payload, where="test"))
        elif kind == ("desired", "model"):
            self.desired.append(self._verified(payload) if payload else None)
        elif kind == ("desired", "config") and payload:
            keys = [self.director]
            said, _ = verify_document(payload, CONFIGURATION_TYPE, keys, what="configuration")
            self.configurations.append(decode_configuration(said))
        elif where.cls == "cmd" or kind == ("rsp", "time"):
            self.documents.append((where.cls, payload))
        elif kind == ("blob", "data"):
            self.blocks.append(decode_msgpack(payload, BlobBlock, what="block"))
        else:
            verify_message(self.director, message.topic, payload, _signature(message))
            if kind == ("rsp", "enrol"):
                self.enrolled.append(decode_json(payload, EnrolAnswer, what="answer"))
            elif kind == ("rsp", "ack"):
                self._trim(decode_json(payload, Ack, what="ack"))
            elif kind == ("rsp", "refused"):
                self.records_refused.append(decode_json(payload, RecordRefused, what="refusal"))
            elif kind == ("blob", "refused"):
                self.refused.append(decode_json(payload, BlobRefused, what="refusal"))
            elif kind == ("blob", "delta"):
                self.offers.append(decode_json(payload, DeltaOffer, what="offer"))

    def _verified(self, envelope: bytes) -> Desired:
        payload, _ = verify_document(envelope, DESIRED_TYPE, [self.director], what="desired")
        return decode_desired(payload)

    def _trim(self, ack: Ack) -> None:
        for first, last in ack.ranges:
            self.acked[ack.boot_id, ack.cls].add(first, last)
            for seq in range(first, last + 1):
                self._outbox.pop((ack.boot_id, ack.cls, seq), None)

    # How. ---------------------------------------------------------------------------------------

    def _new_client(self) -> mqtt.Client:
        name = f"{self.fleet}.{self.name}"
        client = mqtt.Client(CallbackAPIVersion.VERSION2, client_id=name, protocol=mqtt.MQTTv5)
        client.username_pw_set(f"{self.fleet}/{self.name}")
        client.reconnect_delay_set(1, 1)
        client.on_pre_connect = self._on_pre_connect
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _on_pre_connect(self, client: mqtt.Client, userdata: Any) -> None:
        self.connection_id = secrets.token_hex(8)
        to, payload = self._own("state", "online"), self._online(False)
        properties = Properties(PacketTypes.WILLMESSAGE)  # type: ignore[no-untyped-call]
        properties.UserProperty = [(SIGNATURE_PROPERTY, sign_message(self.key, to, payload))]
        client.will_set(to, payload, 1, True, properties)

    def _on_connect(self, client: mqtt.Client, *_: Any) -> None:
        filters = device_filters(self.fleet, self.name, self.line)
        filters.append(metadata_topic(self.fleet, self.line))  # whatever the head says
        client.subscribe([(name, 1) for name in filters])

    def _on_subscribe(self, *_: Any) -> None:
        self._subscribed.set()
        self.announce()

    def _online(self, online: bool) -> bytes:
        return encode_json(
            Online(**self._header("state"), connection_id=self.connection_id, online=online)
        )

    def _header(self, cls: str) -> dict[str, Any]:
        return {
            "ts": time.time(),
            "seq": next(self._seqs[cls]),
            "boot_id": self.boot_id,
            "model_version": self.version,
        }

    def _own(self, cls: str, name: str) -> str:
        return topic(self.fleet, self.name, cls, name)


def _signature(message: mqtt.MQTTMessage) -> str:
    pairs = getattr(message.properties, "UserProperty", None) or []
    return next((value for key, value in pairs if key == SIGNATURE_PROPERTY), "")
