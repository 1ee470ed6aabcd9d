"""What the manager says: retained orders and metadata, and signed answers to devices."""

from __future__ import annotations

from collections.abc import Iterable

from edge_contract.codec import encode_json
from edge_contract.messages import Ack, BlobRefused, DeltaOffer, EnrolAnswer, RecordRefused
from edge_contract.topics import (
    CA_NAME,
    EVERYONE,
    HEAD_PREFIX,
    ROOT_PREFIX,
    metadata_topic,
    topic,
)
from fleet.manager.catalogue import Catalogue
from fleet.manager.connection import Connection
from fleet.manager.director import Director
from fleet.manager.taken import Taken
from fleet.store.configurations import ConfigurationRow
from fleet.store.orders import OrderRow

RETAINED = (("desired", "model"), ("desired", "config"), ("state", "agent"), ("state", "online"))
"""(class, name) of what is retained for one device."""


class Publisher:
    """Publishes what is committed already; while there is no connection it says nothing.

    Args:
        fleet: for the topics.
        connection: the MQTT client.
        director: signs answers.
        catalogue: holds the metadata.
    """

    def __init__(
        self, fleet: str, connection: Connection, director: Director, catalogue: Catalogue
    ) -> None:
        self._fleet = fleet
        self._connection = connection
        self._director = director
        self._catalogue = catalogue
        self._roots_told: tuple[bytes, ...] = ()

    def orders(self, issued: Iterable[OrderRow]) -> None:
        """Retain each device's order; an empty one clears the topic."""
        for order in issued:
            name = topic(self._fleet, order.device, "desired", "model")
            # An order is signed by itself; an empty one has nothing to sign but its topic.
            signature = "" if order.envelope else self._director.sign(name, b"")
            self._connection.publish(name, order.envelope, qos=1, retain=True, signature=signature)

    def configurations(self, rows: Iterable[ConfigurationRow]) -> None:
        """Retain what is wanted of each device's settings."""
        for row in rows:
            name = topic(self._fleet, row.device, "desired", "config")
            self._connection.publish(name, row.envelope, qos=1, retain=True)

    def authority(self, ca_pem: bytes) -> None:
        """Retain the CA certificate for devices that hold nothing but a code."""
        name = topic(self._fleet, EVERYONE, "enrolled", CA_NAME)
        self._connection.publish(name, ca_pem, qos=1, retain=True)

    def clear(self, device: str) -> None:
        """Clear every retained topic of a device that is gone."""
        for cls, name in RETAINED:
            to = topic(self._fleet, device, cls, name)
            signature = self._director.sign(to, b"")
            self._connection.publish(to, b"", qos=1, retain=True, signature=signature)

    def metadata(self, *, anew: bool = False) -> None:
        """Retain the roots, then the metadata of every line, then the heads that name both.

        Args:
            anew: the broker may have forgotten the roots, too.
        """
        edition = self._catalogue.edition
        told = () if anew else self._roots_told
        for version, root in enumerate(edition.roots, 1):
            if told[version - 1 : version] != (root,):
                self._retain_metadata(f"{ROOT_PREFIX}{version}", root)
        self._roots_told = edition.roots
        for line, payload in edition.metadata.items():
            self._retain_metadata(line, payload)
        for line, payload in edition.heads.items():
            self._retain_metadata(HEAD_PREFIX + line, payload)

    def _retain_metadata(self, name: str, payload: bytes) -> None:
        to = metadata_topic(self._fleet, name)
        self._connection.publish(to, payload, qos=1, retain=True)

    def command(self, device: str, name: str, envelope: bytes) -> None:
        """Send a signed command; never retained."""
        to = topic(self._fleet, device, "cmd", name)
        self._connection.publish(to, envelope, qos=1)

    def answers(self, taken: Taken, now_s: float) -> None:
        """Answer enrolments and questions for the time, and tell devices which of their records are
        committed."""
        for device, ask in taken.time_asks:
            to = topic(self._fleet, device, "rsp", "time")
            envelope = self._director.tell_time(device, ask.nonce, now_s)
            self._connection.publish(to, envelope, qos=1)
        for enrolment in taken.enrolments:
            answer = EnrolAnswer(
                accepted=enrolment.row is not None,
                reason=enrolment.reason,
                renew=enrolment.renew,
            )
            self._send(enrolment.device, "rsp", "enrol", encode_json(answer))
        for nonce, certified in taken.certified:
            payload = encode_json(certified.answer)
            if nonce:
                to = topic(self._fleet, EVERYONE, "enrolled", nonce)
                self._connection.publish(to, payload, qos=1)
            else:
                self._send(certified.device, "rsp", "certificate", payload)
        for stream, ranges, reason in taken.refused:
            refusal = RecordRefused(
                cls=stream.cls, boot_id=stream.boot_id, ranges=ranges, reason=reason
            )
            self._send(stream.device, "rsp", "refused", encode_json(refusal))
        for stream, ranges in taken.acks.items():
            ack = Ack(cls=stream.cls, boot_id=stream.boot_id, ranges=ranges)
            self._send(stream.device, "rsp", "ack", encode_json(ack))

    def refuse_blob(self, device: str, digest: str, reason: str) -> None:
        """Tell a device that it does not get a blob."""
        refused = BlobRefused(digest=digest[:80], reason=reason)
        self._send(device, "blob", "refused", encode_json(refused))

    def offer_delta(self, device: str, offer: DeltaOffer) -> None:
        """Tell a device which delta it may pull, if any."""
        self._send(device, "blob", "delta", encode_json(offer))

    def _send(self, device: str, cls: str, name: str, payload: bytes) -> None:
        to = topic(self._fleet, device, cls, name)
        self._connection.publish(to, payload, qos=1, signature=self._director.sign(to, payload))
