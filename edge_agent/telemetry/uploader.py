"""Sends what the spool holds and trims what the fleet has acknowledged. Owned by the loop.

A record leaves the spool only on ``rsp/ack``, which the manager sends after its commit. What is not
acknowledged goes again after a reconnect or a time-out: at least once, and the fleet's key
(device, boot_id, class, seq) makes it once in the store.
"""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.telemetry.records import SpoolRecord
from edge_agent.telemetry.spool import Spool
from edge_contract.codec import decode_json
from edge_contract.errors import ContractError
from edge_contract.intervals import IntervalSet
from edge_contract.messages import Ack, Event, RecordRefused

CLASSES = ("status", "event", "telemetry", "drift")
"""In the order in which they are sent: what people wait for comes first."""

IN_FLIGHT_MAX = 128
"""Records sent and not yet acknowledged, over all classes: 128 small messages of backlog are what a
slow link drains within the resend time-out."""

RESEND_MAX_S = 900.0
"""Each resend that brought no acknowledgement doubles the wait for the next one, up to this: a
manager that is down behind a broker that is up must not cost a metered link 128 records every few
seconds."""


class Uploader:
    """Pumps the spool through the link.

    Args:
        spool: what to send.
        publish: (class, name, payload) -> whether it was handed to the network.
        resend_s: silence after which unacknowledged records go again; doubled each time in vain.
    """

    def __init__(
        self, spool: Spool, publish: Callable[[str, str, bytes], bool], resend_s: float
    ) -> None:
        self._spool = spool
        self._publish = publish
        self._resend_s = resend_s
        self._wait_s = resend_s
        self._in_flight: dict[tuple[str, str], IntervalSet] = {}
        self._progress_s = 0.0
        self._online = False
        self.refused_count = 0
        """Records that the fleet will never accept, dropped since the start."""
        self.refused_reason = ""

    @property
    def in_flight_count(self) -> int:
        """Sequence numbers sent and not yet acknowledged."""
        return sum(seqs.count() for seqs in self._in_flight.values())

    def connected(self, now_s: float) -> None:
        """A connection began: everything unacknowledged goes again."""
        self._online = True
        self._wait_s = self._resend_s
        self._restart(now_s, reconnected=True)

    def disconnected(self) -> None:
        """Nothing can be sent until the next ``connected``."""
        self._online = False

    def acknowledged(self, payload: bytes, now_s: float) -> None:
        """A verified ``rsp/ack`` came.

        Raises:
            ContractError: malformed.
        """
        ack = decode_json(payload, Ack, what="rsp/ack")
        self._settle(ack.cls, ack.boot_id, ack.ranges, now_s)

    def refused(self, refused: RecordRefused, now_s: float) -> None:
        """A verified ``rsp/refused`` came: these records will never be accepted. They are dropped
        and counted, so that what comes after them gets through.

        Raises:
            ContractError: malformed.
        """
        key = (refused.cls, refused.boot_id)
        given_up = IntervalSet(refused.ranges)
        # Only what was really sent: a refusal cannot reach into the spool beyond that.
        sent = self._in_flight.get(key, IntervalSet())
        given_up = sent.difference(sent.difference(given_up))
        if not given_up:
            return
        self.refused_count += given_up.count()
        self.refused_reason = f"{refused.cls}: {refused.reason}"
        self._settle(refused.cls, refused.boot_id, list(given_up), now_s)

    def _settle(self, cls: str, boot_id: str, ranges: list[tuple[int, int]], now_s: float) -> None:
        if cls not in CLASSES:
            raise ContractError(f"rsp: no class {cls!r}; expected one of {CLASSES}")
        self._spool.ack(boot_id, cls, ranges)
        key = (cls, boot_id)
        waiting = self._in_flight.get(key)
        if waiting is not None:
            left = waiting.difference(IntervalSet(ranges))
            if left:
                self._in_flight[key] = left
            else:
                del self._in_flight[key]
        self._progress_s = now_s
        self._wait_s = self._resend_s
        self.pump(now_s)

    def heard(self) -> None:
        """The fleet has said something else: it is there, so the long wait is over."""
        self._wait_s = self._resend_s

    def tick(self, now_s: float) -> None:
        """Send what is new; send again what was not acknowledged for ``resend_s``."""
        waited_s = now_s - self._progress_s
        if self._online and self._in_flight and waited_s >= self._wait_s:
            self._wait_s = min(self._wait_s * 2, max(RESEND_MAX_S, self._resend_s))
            self._restart(now_s, reconnected=False)
        else:
            self.pump(now_s)

    def pump(self, now_s: float) -> None:
        """Send while fewer than ``IN_FLIGHT_MAX`` records wait for their acknowledgement."""
        for cls in CLASSES:
            room = IN_FLIGHT_MAX - self.in_flight_count
            if not self._online or room <= 0:
                return
            batch = self._spool.next_batch(cls, max_records=room)
            if batch and not self._in_flight:
                self._progress_s = now_s
            for record in batch:
                self._send(record)

    def _send(self, record: SpoolRecord) -> None:
        key = (record.cls, record.boot_id)
        seqs = self._in_flight.get(key, IntervalSet())
        self._in_flight[key] = seqs.union(IntervalSet([(record.seq_first, record.seq_last)]))
        # A message that the network did not take is found by the time-out like one that it lost.
        self._publish(*_topic_tail(record), record.payload)

    def _restart(self, now_s: float, *, reconnected: bool) -> None:
        self._spool.reset_in_flight(reconnected=reconnected)
        self._in_flight.clear()
        self._progress_s = now_s
        self.pump(now_s)


def _topic_tail(record: SpoolRecord) -> tuple[str, str]:
    """Class and name of the topic that a record is sent on."""
    if record.cls == "telemetry":
        return ("telemetry_backfill" if record.backfill else "telemetry", "summary")
    if record.cls == "event":
        return ("event", decode_json(record.payload, Event, what="spooled event").name)
    return (record.cls, "update" if record.cls == "status" else "summary")
