"""The device's side of the MQTT protocol (docs/protocols/mqtt.md). Owned by the loop.

On every CONNACK it subscribes, announces and resends anew, because a broker may have forgotten
everything. Without ``[mqtt]`` all of this does nothing and the device works alone.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.identity import Identity
from edge_agent.identity.contact import Contact, certificate_files
from edge_agent.identity.renewal import Renewal
from edge_agent.link import Inbound, Link, LinkDown, LinkEvent
from edge_agent.metadata_pull import MetadataPull
from edge_agent.orders import OrderDesk
from edge_agent.refusal import Refusal
from edge_agent.reports import Reports
from edge_agent.telemetry.spool import Spool
from edge_agent.telemetry.uploader import Uploader
from edge_agent.transfer.budget import CONNECT_BYTES, PING_BYTES, ByteBudget, message_bytes
from edge_agent.transfer.fetch import BundleFetcher
from edge_contract.codec import decode_json, decode_msgpack, encode_json
from edge_contract.command import Command
from edge_contract.digest import hex_of
from edge_contract.errors import ContractError, TrustError
from edge_contract.messages import (
    BlobAsk,
    BlobBlock,
    BlobRefused,
    DeltaAsk,
    DeltaOffer,
    EnrolAnswer,
    RecordRefused,
)
from edge_contract.topics import EVERYONE, Topic, broadcast_topic, device_filters, parse_topic

ENROL_EVERY_S = 30.0
"""Between two announcements of a device that no manager has answered."""
TIME_EVERY_S = 3600.0
"""Between two questions for the time; sooner while none was answered."""
TIME_RETRY_S = 60.0
ANNOUNCE_EVERY_S = 86400.0
"""A device that is accepted says again that it is there: the answer tells it when to renew."""
STATE_EVERY_S = 60.0
"""The retained state is published on every change, and at least this often while online."""
METERED_STATE_EVERY_S = 6 * 3600.0
METERED_KEEPALIVE_S = 600
"""On a metered link: four states and 40 KB of keepalives a day."""
SPENT_PAUSE_S = 3600
"""Before coming back on a metered link whose day is spent: a connection costs 9 KB."""
SIGNATURE_BYTES = 110
"""The user property with the signature."""


class FleetLink:
    """Speaks with the fleet.

    Args:
        config: ``[mqtt]`` and ``[device]``.
        identity: signs what goes out; None where the device's key is damaged: no link then.
        spool: what is uploaded.
        reports: builds the messages.
        desk: verifies what comes in.
        fetcher: takes the blocks.
        budget: counts every byte and says what has to wait.
        configure: takes a configuration's envelope and monotonic seconds.
        post: receives link events, from the network thread.
        clock: the device's clocks.
    """

    def __init__(
        self,
        config: AgentConfig,
        identity: Identity | None,
        spool: Spool,
        reports: Reports,
        desk: OrderDesk,
        fetcher: BundleFetcher,
        budget: ByteBudget,
        *,
        configure: Callable[[bytes, float], None],
        post: Callable[[LinkEvent], None],
        clock: SystemClock,
    ) -> None:
        device = config.device
        self._device = device
        self._reports = reports
        self._desk = desk
        self._fetcher = fetcher
        self._budget = budget
        self._configure = configure
        self._listening: set[str] = set()
        # A broadcast brings what others lack, too: not where bytes are counted or held back.
        self._may_listen = not budget.metered and not config.transfer.rate_max_kb_s
        self._keepalive_s = float(METERED_KEEPALIVE_S)
        self._ping_due_s = 0.0
        self._clock = clock
        self._connection_id = ""
        self._state_due_s = 0.0
        self._enrol_due_s = 0.0
        self._time_due_s = 0.0
        self._enrolled = False
        self.up_before = True
        """Whether the link was up before the last ``disconnected``, so that one outage is one
        line in the log."""
        self.down_reason = ""
        self.refused_reason = ""
        """Why the fleet does not accept this device, as its last answer to the enrolment said."""
        self.deaf_reason = ""
        """Why orders or answers cannot reach this device although it is connected."""
        self._link: Link | None = None
        self._renewal: Renewal | None = None
        resend_s = 15.0
        if config.mqtt is not None and identity is not None:
            mqtt = config.mqtt
            resend_s = mqtt.resend_s
            if budget.metered:
                keepalive_s = max(mqtt.keepalive_s, METERED_KEEPALIVE_S)
                mqtt = msgspec.structs.replace(mqtt, keepalive_s=keepalive_s)
            self._keepalive_s = float(mqtt.keepalive_s)
            files = certificate_files(device, identity) if mqtt.tls else None
            self._link = Link(
                mqtt,
                f"{device.fleet}/{device.id}",
                identity,
                post,
                lambda connection_id: reports.online(connection_id, online=False),
                certificate=files,
                reference_s=desk.reference_s,
                clock=clock,
            )
            if files is not None:
                self._renewal = Renewal(
                    files,
                    identity,
                    (device.fleet, device.id),
                    lambda: Contact(device, mqtt, identity, files, clock),
                    desk.reference_s,
                )
        self._uploader = Uploader(spool, self._publish, resend_s)
        self._metadata = MetadataPull(
            device.fleet,
            device.line,
            desk,
            budget,
            subscribe=self._subscribe,
            unsubscribe=self._unsubscribe,
        )

    @property
    def up(self) -> bool:
        """Whether there is a connection."""
        return bool(self._connection_id)

    @property
    def records_refused_count(self) -> int:
        """Records that the fleet will never accept, dropped since the start."""
        return self._uploader.refused_count

    @property
    def uploading(self) -> bool:
        """Whether something was sent that the fleet has not acknowledged."""
        return self.up and self._uploader.in_flight_count > 0

    def start(self) -> None:
        """Begin to connect."""
        if self._link is not None:
            self._link.start()

    def stop(self) -> None:
        """Say goodbye and disconnect."""
        if self._link is None:
            return
        if self.up:
            self._send(*self._reports.online(self._connection_id, online=False), retain=True)
        self._link.stop()

    def connected(self, connection_id: str) -> None:
        """A CONNACK came: subscribe, announce, resend."""
        assert self._link is not None
        device = self._device
        self._connection_id = connection_id
        if self._renewal is not None:
            self._renewal.connected()
        self.down_reason = ""
        self.deaf_reason = ""
        self.up_before = True
        self._budget.spend(CONNECT_BYTES)
        self._listening.clear()
        self._metadata.disconnected(self._clock.monotonic_s())
        self._link.subscribe(device_filters(device.fleet, device.id, device.line))
        self._enrolled = False
        self._announce()
        self._send(*self._reports.online(connection_id, online=True), retain=True)
        self._publish_state()
        self._uploader.connected(self._clock.monotonic_s())
        self._fetcher.reconnected(self._clock.monotonic_s())

    def disconnected(self, event: LinkDown) -> None:
        """The connection ended, or could not be made."""
        self._connection_id = ""
        self.down_reason = event.reason
        if event.tls_refused:
            # As dear as one that is accepted; one that meets nobody costs two packets, if any.
            self._budget.spend(CONNECT_BYTES)
        if self._renewal is not None and event.tls_refused:
            self._renewal.refused(self._clock.monotonic_s())
        self.up_before = False
        self._uploader.disconnected()
        lost_bytes = message_bytes("", event.unread_bytes, qos=0) if event.unread_bytes else 0
        self._budget.spend(lost_bytes)
        self._metadata.disconnected(self._clock.monotonic_s(), lost_bytes)

    def state_changed(self) -> None:
        """Publish the retained state with the next tick."""
        self._state_due_s = 0.0

    def ask_blocks(self, ask: BlobAsk) -> bool:
        """Ask the manager for blocks; False while offline."""
        if self._may_listen and self.up and self._link is not None:
            name = broadcast_topic(self._device.fleet, hex_of(ask.digest))
            if name not in self._listening:
                self._link.subscribe([name])
                self._listening.add(name)
            ask = msgspec.structs.replace(ask, listening=True)
        return self._publish("blob", "ask", encode_json(ask))

    def ask_delta(self, ask: DeltaAsk) -> bool:
        """Ask the manager for a delta; False while offline."""
        return self._publish("blob", "delta-ask", encode_json(ask))

    def tick(self, now_s: float) -> None:
        """Upload, ask again for lost blocks, publish the state when it is due."""
        self._uploader.tick(now_s)
        self._fetcher.tick(now_s, online=self.up)
        self._metadata.tick(now_s)
        if self._link is not None:
            self._link.pace(SPENT_PAUSE_S if self._budget.exhausted else 0)
        self._stop_listening()
        if self.up and now_s >= self._ping_due_s:
            self._budget.spend(PING_BYTES)
            self._ping_due_s = now_s + self._keepalive_s
        if self.up and now_s >= self._enrol_due_s:
            self._announce()
        if self._renewal is not None:
            self._renew(self._renewal, now_s)
        if self.up and self._enrolled and now_s >= self._time_due_s:
            self._time_due_s = now_s + TIME_RETRY_S
            self._publish("ask", "time", self._desk.ask_time())
        if self.up and now_s >= self._state_due_s:
            self._publish_state()

    def inbound(self, message: Inbound) -> Refusal | None:
        """Act on one message.

        Returns:
            a refusal to log, for metadata that was refused.

        Raises:
            ContractError: malformed, or a topic that is not ours.
            TrustError: not signed by whom it must be.
        """
        topic = parse_topic(message.topic)
        now_s = self._clock.monotonic_s()
        self._budget.spend(
            message_bytes(
                message.topic,
                len(message.payload) + len(message.signature),
                qos=0 if topic.cls == "blob" else 1,
            )
        )
        self._uploader.heard()
        if topic.device == EVERYONE:
            if topic.cls == "blob":
                block = decode_msgpack(message.payload, BlobBlock, what=message.topic)
                self._fetcher.block(block, now_s, shared=True)
            if topic.cls == "metadata":
                return self._metadata.inbound(topic.name, message.payload, now_s)
            return None
        if (topic.fleet, topic.device) != (self._device.fleet, self._device.id):
            raise TrustError(f"{message.topic}: this device is {self._device.id}")
        match (topic.cls, topic.name):
            case ("desired", "model") if message.payload:
                self._desk.desired(message.payload, now_s)
            case ("desired", "config") if message.payload:
                self._configure(message.payload, now_s)
            case ("cmd", _):
                self._carry_out(self._desk.command(message.payload))
            case ("rsp", "time"):
                self._desk.time_reply(message.payload)
                self._time_due_s = now_s + TIME_EVERY_S
            case ("desired", "model"):
                self._desk.verify_director(message.topic, b"", message.signature)
                self._desk.withdrawn()
            case ("blob", "data"):
                block = decode_msgpack(message.payload, BlobBlock, what=message.topic)
                self._fetcher.block(block, now_s)
            case ("rsp" | "blob", _):
                self._answer(topic, message, now_s)
        return None

    def _answer(self, topic: Topic, message: Inbound, now_s: float) -> None:
        """A signed answer of the manager."""
        if topic.name == "enrol":
            # Before the first metadata there is no key to check it with; it only informs.
            answer = decode_json(message.payload, EnrolAnswer, what=message.topic)
            self.refused_reason = "" if answer.accepted else answer.reason
            if not answer.accepted:
                raise TrustError(f"the fleet does not accept this device: {answer.reason}")
            self._enrolled = True
            self._enrol_due_s = now_s + ANNOUNCE_EVERY_S
            if self._renewal is not None:
                self._renewal.hint(answer.renew)
            return
        self._desk.verify_director(message.topic, message.payload, message.signature)
        if topic.name == "ack":
            self._uploader.acknowledged(message.payload, now_s)
        elif topic.name == "certificate" and self._renewal is not None:
            if self._renewal.answered(message.payload) and self._link is not None:
                self._link.reconnect()
        elif (topic.cls, topic.name) == ("rsp", "refused"):
            given_up = decode_json(message.payload, RecordRefused, what=message.topic)
            self._uploader.refused(given_up, now_s)
        elif topic.name == "delta":
            self._fetcher.offered(
                decode_json(message.payload, DeltaOffer, what=message.topic), now_s
            )
        elif topic.name == "refused":
            refused = decode_json(message.payload, BlobRefused, what=message.topic)
            self._fetcher.refused(refused.digest, refused.reason)

    def _carry_out(self, command: Command) -> None:
        """Do what a verified command says; its nonce is spent, whatever comes of it."""
        if command.name != "report":
            raise ContractError(f"command {command.name[:40]!r}: this agent knows only 'report'")
        self.state_changed()

    def _renew(self, renewal: Renewal, now_s: float) -> None:
        if not self.up:
            renewal.tick(now_s)
            return
        ask = renewal.ask(now_s)
        if ask is not None:
            self._publish("enroll", "renew", ask)

    def _announce(self) -> None:
        """Enrol; again until the manager answers, for it may be away or have lost its store."""
        self._send(*self._reports.enrol())
        self._enrol_due_s = self._clock.monotonic_s() + ENROL_EVERY_S

    def _publish_state(self) -> None:
        self._send(*self._reports.state(self._connection_id), retain=True)
        every_s = METERED_STATE_EVERY_S if self._budget.metered else STATE_EVERY_S
        self._state_due_s = self._clock.monotonic_s() + every_s

    def _publish(self, cls: str, name: str, payload: bytes) -> bool:
        if not self._budget.allows(cls):
            return False
        return self._send(self._reports.topic(cls, name), payload)

    def _send(self, topic: str, payload: bytes, *, retain: bool = False) -> bool:
        """Publish and count."""
        if self._link is None or not self._link.publish(topic, payload, retain=retain):
            return False
        self._budget.spend(message_bytes(topic, len(payload) + SIGNATURE_BYTES))
        return True

    def _subscribe(self, name: str) -> None:
        if self._link is not None:
            self._link.subscribe([name])

    def _unsubscribe(self, name: str) -> None:
        if self._link is not None:
            self._link.unsubscribe([name])

    def _stop_listening(self) -> None:
        """Hear no more of blobs that are here."""
        if not self._listening or self._link is None:
            return
        digests = self._fetcher.puller.digests
        wanted = {broadcast_topic(self._device.fleet, hex_of(digest)) for digest in digests}
        over = self._listening - wanted
        if over:
            self._link.unsubscribe(sorted(over))
            self._listening -= over
