"""Takes a batch of messages in, within one transaction: verify, decode, sort, step the rollouts.

Nothing leaves the manager from here. What is to be acknowledged, answered or served is handed
back and carried out by the loop once the transaction is committed.
"""

from __future__ import annotations

from sqlalchemy import Connection

from edge_contract.codec import decode_json
from edge_contract.errors import ContractError, TrustError
from edge_contract.intervals import Overlap
from edge_contract.messages import BlobAsk, DeltaAsk, Enrol, Event, UpdateStatus
from edge_contract.signed_time import decode_time_ask
from edge_contract.signing import verify_message
from edge_contract.telemetry import TelemetrySummary
from edge_contract.topics import CODE_PREFIX, EVERYONE, Topic, check_id, parse_topic
from fleet.identity.desk import IdentityDesk, read_ask
from fleet.manager.connection import Inbound
from fleet.manager.enrolment import Enrolment, enrol
from fleet.manager.rollouts import RolloutTurn
from fleet.manager.roster import Roster
from fleet.manager.taken import Taken
from fleet.rollout.events import DeviceReport
from fleet.rollout.state import Phase
from fleet.store import devices, identity, journal, orders
from fleet.store.devices import DeviceRow
from fleet.telemetry.ledger import Ledger, LedgerPage
from fleet.telemetry.queries import is_drift_alarm
from fleet.telemetry.record import RECORD_CLASSES, Record, claimed_record, decode_record

_DETAIL_CHARS = 300


class Intake:
    """Keeps the pinned keys and the committed ranges between batches.

    Args:
        fleet: whose topics these are.
        desk: decides on certificates, and knows which keys are revoked.
    """

    def __init__(self, fleet: str, desk: IdentityDesk) -> None:
        self._fleet = fleet
        self._desk = desk
        self._keys: dict[str, bytes] = {}
        self._ledger = Ledger()

    def load(self, tx: Connection) -> None:
        """Read the pinned and the revoked keys: at the start, and after an operator's order."""
        self._keys.clear()
        self._keys.update(devices.pinned_keys(tx))
        self._desk.revoked = identity.all_revoked_keys(tx)

    def open(self, tx: Connection, turn: RolloutTurn) -> IntakePage:
        """Begin a batch within the transaction ``tx``."""
        return IntakePage(self._fleet, self._keys, self._desk, self._ledger, tx, turn)


class IntakePage:
    """One batch: ``take`` every message, ``write``, commit, then ``committed``."""

    def __init__(
        self,
        fleet: str,
        keys: dict[str, bytes],
        desk: IdentityDesk,
        ledger: Ledger,
        tx: Connection,
        turn: RolloutTurn,
    ) -> None:
        self._fleet = fleet
        self._keys = keys
        self._new_keys: dict[str, bytes] = {}
        self._desk = desk
        self._ledger: LedgerPage = ledger.open(tx, turn.now_s)
        self._tx = tx
        self._turn = turn
        self._now_s = turn.now_s
        self._taken = Taken()
        self._roster = Roster(tx, turn, self._taken)

    def take(self, message: Inbound) -> None:
        """Sort one message; whatever is wrong with it becomes a finding."""
        device, cls = "", ""
        try:
            topic = parse_topic(message.topic)
            device, cls = topic.device, topic.cls
            if topic.fleet != self._fleet:
                # The broker brings none; a receipt may, of a device that was another fleet's.
                raise ContractError(f"{message.topic}: this is fleet {self._fleet}")
            if topic.device == EVERYONE:
                device = topic.name
                if topic.name.startswith(CODE_PREFIX):
                    device = ""
                    self._certify(topic, message)
                else:
                    self._enrol(topic, message)
                return
            key = self._new_keys.get(device) or self._keys.get(device)
            if key is None:
                # A new device says that it is online before it enrols, and says it all again after.
                if topic.cls != "state":
                    why = "no key is pinned for it; it has to enrol first"
                    self._find(device, "unknown_device", cls, why)
            elif key.hex() in self._desk.revoked:
                self._find(device, "revoked_key", cls, "its key is revoked; nothing is taken in")
            elif message.payload:  # an empty retained message is a topic being cleared
                verify_message(key, message.topic, message.payload, message.signature)
                self._dispatch(topic, message)
        except TrustError as error:
            self._find(device, "bad_signature", cls, error.message)
        except ContractError as error:
            self._find(device, "malformed", cls, error.message)

    def write(self) -> None:
        """Write everything into the transaction."""
        self._ledger.write()
        self._roster.write()

    def committed(self) -> Taken:
        """Call once the transaction is committed."""
        self._keys.update(self._new_keys)
        self._taken.acks = self._ledger.committed()
        return self._taken

    def _enrol(self, topic: Topic, message: Inbound) -> None:
        device = check_id(topic.name, what="device")
        asked = decode_json(message.payload, Enrol, what=message.topic)
        row = self._roster.row(device)
        strict = self._desk.strict
        result = enrol(row, device, asked, message, now_s=self._now_s, strict=strict)
        if asked.public in self._desk.revoked:
            result = Enrolment(device, None, "this key is revoked")
        if result.row is not None and self._desk.due(self._tx, result.row, self._now_s):
            result = Enrolment(device, result.row, renew=True)
        self._taken.enrolments.append(result)
        if result.row is None:
            # Every try counts; only the first of them is a line of its own.
            if self._find(device, "refused_key", "enroll", result.reason):
                text = f"{device}: {result.reason}"
                journal.add_log(self._tx, self._now_s, "device", device, text, "warning")
            return
        self._new_keys[device] = bytes.fromhex(result.row.public_key)
        self._roster.put(result.row)
        self._roster.mark_online(result.row, retained=message.retained)
        if row is None:
            text = f"{device} enrolled: {result.row.hardware}, line {result.row.line}"
            journal.add_log(self._tx, self._now_s, "device", device, text)
            self._taken.changes["device", device] = text

    def _certify(self, topic: Topic, message: Inbound) -> None:
        """A device without a certificate asks for one, with a code or its pinned key."""
        nonce = topic.name.removeprefix(CODE_PREFIX)
        if not self._desk.strict:
            raise ContractError(f"{message.topic}: this fleet has no CA")
        ask = read_ask(message.payload, message.topic)
        known = self._roster.row(ask.device) if len(ask.device) <= 63 else None
        answered = self._desk.first(
            self._tx,
            ask,
            known,
            message.topic,
            message.payload,
            message.signature,
            now_s=self._now_s,
        )
        self._taken.certified.append((nonce, answered))
        if answered.row is None:
            self._find(answered.device, "refused_ask", "enroll", answered.answer.reason)
            return
        self._roster.put(answered.row)
        self._new_keys[answered.device] = bytes.fromhex(answered.row.public_key)
        if known is None or answered.replaced_key:
            how = "replaced" if answered.replaced_key else "enrolled with a code"
            text = f"{answered.device} {how}: {answered.row.hardware}, line {answered.row.line}"
            journal.add_log(self._tx, self._now_s, "device", answered.device, text)
            self._taken.changes["device", answered.device] = text

    def _dispatch(self, topic: Topic, message: Inbound) -> None:
        row = self._roster.known(topic.device)
        if topic.cls in RECORD_CLASSES:
            record = self._decode(topic, message)
            self._roster.mark_online(row, retained=message.retained)
            self._record(record)
        elif topic.cls == "state":
            self._roster.hear_state(row, topic, message)
        elif (topic.cls, topic.name) == ("enroll", "renew"):
            self._roster.mark_online(row, retained=message.retained)
            ask = read_ask(message.payload, message.topic)
            answered = self._desk.renew(self._tx, row, ask, self._now_s)
            self._taken.certified.append(("", answered))
            if not answered.answer.accepted:
                self._find(row.device, "refused_ask", "enroll", answered.answer.reason)
        elif (topic.cls, topic.name) == ("blob", "ask"):
            self._roster.mark_online(row, retained=message.retained)
            blobs = decode_json(message.payload, BlobAsk, what=message.topic)
            self._taken.asks.append((topic.device, blobs))
        elif (topic.cls, topic.name) == ("blob", "delta-ask"):
            self._roster.mark_online(row, retained=message.retained)
            delta_ask = decode_json(message.payload, DeltaAsk, what=message.topic)
            self._taken.delta_asks.append((topic.device, delta_ask))
        elif (topic.cls, topic.name) == ("ask", "time"):
            self._roster.mark_online(row, retained=message.retained)
            question = decode_time_ask(message.payload, where=message.topic)
            self._taken.time_asks.append((topic.device, question))
        else:
            raise ContractError(f"{message.topic}: nothing of a device's goes there")
        self._taken.changes.setdefault(("device", topic.device), "")

    def _decode(self, topic: Topic, message: Inbound) -> Record:
        """The record; one that will never be one is refused aloud, if it says which it is.

        Raises:
            ContractError: not a record.
        """
        try:
            return decode_record(topic, message.payload, received_at_s=message.at_s)
        except ContractError as error:
            named = claimed_record(topic, message.payload)
            if named is not None:
                stream, first, last = named
                self._taken.refused.append((stream, [(first, last)], _plain(error.message)))
            raise

    def _record(self, record: Record) -> None:
        device, row = record.stream.device, record.row
        overlap = self._ledger.take_in(record)
        if overlap is Overlap.PARTIAL:
            self._find(
                device,
                "partial_overlap",
                record.stream.cls,
                f"{row.seq_first} to {row.seq} of boot {row.boot_id} is stored in part",
            )
            self._taken.refused.append(
                (record.stream, [(row.seq_first, row.seq)], "it is stored in part already")
            )
        if overlap is not Overlap.DISJOINT:
            return
        message = record.message
        if isinstance(message, TelemetrySummary):
            self._newest_telemetry(device, record)
        elif isinstance(message, UpdateStatus):
            self._step(device, message)
        elif isinstance(message, Event) and message.severity != "info":
            self._tell(device, record, message)

    def _newest_telemetry(self, device: str, record: Record) -> None:
        row = self._roster.known(device)
        if row.telemetry_ts is None or record.row.ts >= row.telemetry_ts:
            self._roster.put(row, telemetry=record.row.payload, telemetry_ts=record.row.ts)

    def _step(self, device: str, status: UpdateStatus) -> None:
        row = self._roster.known(device)
        report = DeviceReport(
            now_s=self._now_s,
            device=device,
            phase=Phase(status.phase),
            digest=status.digest,
            number=(self._epoch(row, status.desired_seq), status.desired_seq),
            reason=_plain(status.reason),
        )
        self._turn.feed(row.line, report)

    def _epoch(self, row: DeviceRow, seq: int) -> int:
        """The epoch of an order that a step names by its ``seq`` alone: the fleet's own order's,
        else that of what the device took up last."""
        if seq == row.desired_seq:
            return row.desired_epoch
        found = orders.epoch_of(self._tx, row.device, seq)
        return row.reported_epoch if found is None else found

    def _tell(self, device: str, record: Record, event: Event) -> None:
        kind: journal.LogKind = "drift" if is_drift_alarm(record.row) else "device"
        text = f"{device}: {_plain(event.text) or event.name}"
        journal.add_log(self._tx, self._now_s, kind, device, text, event.severity)
        self._taken.changes[kind, device] = text

    def _find(self, device: str, kind: str, cls: str, detail: str) -> bool:
        """Count a refusal; whether it is the first of its kind."""
        first = journal.add_finding(
            self._tx,
            device=device[:80],
            kind=kind,
            cls=cls[:20],
            detail=_plain(detail),
            now_s=self._now_s,
        )
        text = f"{device or 'somebody'}: {_plain(detail)}" if first else ""
        self._taken.changes["finding", device] = text
        return first


def _plain(text: str) -> str:
    """What a stranger wrote, fit for a log: one line, printable, short."""
    return "".join(c if c.isprintable() else " " for c in text[:_DETAIL_CHARS])
