"""The manager: one thread that owns the store and reads one queue.

Network, pages and command line only post to the queue. The order of things is always the same:
take in, commit, acknowledge to the broker, then answer devices and publish orders. Whatever a
crash cuts off after the commit is done again: devices send again what was not acknowledged, and
orders are published anew on the next CONNACK.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError

from edge_contract.errors import ExitCode
from edge_contract.receipt import SignedMessage
from edge_contract.topics import manager_filters
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.identity.certificates import MANAGER
from fleet.identity.desk import IdentityDesk
from fleet.identity.issuers import Issuers
from fleet.manager.audit import Audit
from fleet.manager.blob_desk import BlobDesk
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.broker_session import BrokerSession
from fleet.manager.catalogue import Catalogue
from fleet.manager.configuration_desk import ConfigurationDesk
from fleet.manager.configurations import Configurations
from fleet.manager.connection import Connected, Connection, Disconnected, Inbound
from fleet.manager.director import Director
from fleet.manager.evictions import Evictions
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.identity_care import IdentityCare
from fleet.manager.inbox import Command, Inbox
from fleet.manager.intake import Intake
from fleet.manager.orders import Orders
from fleet.manager.publisher import Publisher
from fleet.manager.reminders import Reminders
from fleet.manager.repository_watch import RepositoryWatch
from fleet.manager.retention import DEFAULT_S, Retention
from fleet.manager.rollout_desk import RolloutDesk
from fleet.manager.rollouts import RolloutTurn
from fleet.manager.taken import Taken
from fleet.repository.tuf_repository import Repository
from fleet.store import Store, devices
from fleet.transfer.blob_server import BlobServer
from fleet.transfer.delta_store import DeltaStore
from fleet.transfer.total_rate import TotalRate

_TICK_S = 0.5
_HOUR_S = 3600.0
_SOON_S = 2.0
"""Devices come back in crowds after a restored backup: what is due for them is signed together."""
_POLL_REPOSITORY_S = 1.0
_STORE_RETRY_S = 1.0
COMMAND_LIFE_S = 3600.0
"""A device that is away for longer does not get the command."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


class Manager:
    """The running manager of one fleet.

    Args:
        fleet: its id.
        store: this thread becomes its only writer.
        repository: what is published; polled, because other processes publish.
        address: the broker.
        clock: wall and monotonic.
        issuers: the fleet's certificates; None for a fleet that has none.
        delta_dir: where deltas are kept; None: blobs go out whole.
        blob_total_bytes_s: what all devices may pull together, over any transport; 0 for no limit.
        records_kept_s: for how long records are kept from their receipt; 0 for ever.
    """

    def __init__(
        self,
        *,
        fleet: str,
        store: Store,
        repository: Repository,
        address: BrokerAddress,
        clock: Clock,
        issuers: Issuers | None = None,
        delta_dir: Path | None = None,
        blob_total_bytes_s: float = 0.0,
        records_kept_s: float = DEFAULT_S,
    ) -> None:
        self.fleet = fleet
        self.store = store
        self.address = address
        self.clock = clock
        self.catalogue = Catalogue(repository)
        self.feed = Feed()
        self.facts = Facts(clock.wall_s())
        self.ended = threading.Event()
        """Set when the loop has ended; ``failure`` says why if nobody asked it to."""
        self.failure: BaseException | None = None
        self.audit = Audit(repository, store, clock)
        director = Director(fleet, repository.director_key, repository.director_epoch)
        self._director = director
        self.issuers = issuers or Issuers(None, fleet)
        self._intake = Intake(fleet, IdentityDesk(self.issuers))
        self._inbox = Inbox(self.facts)
        self._connection = Connection(
            address,
            f"{fleet}/{MANAGER}",
            manager_filters(fleet),
            self._inbox.put,
            clock,
            lambda failures: self.issuers.tls_context(MANAGER, failures, now_s=clock.wall_s()),
        )
        publisher = Publisher(fleet, self._connection, director, self.catalogue)
        self._publisher = publisher
        self._desk = RolloutDesk(
            store, Orders(director, self.catalogue), publisher, self.facts, self.feed, clock
        )
        self.configurations = Configurations(director)
        self.configuration_desk = ConfigurationDesk(
            self.configurations, store, self._desk, publisher, self.facts, self.feed, clock
        )
        self._watch = RepositoryWatch(
            repository,
            self.catalogue,
            director,
            publisher,
            self._desk,
            self.configuration_desk,
            self.facts,
            self.feed,
            clock,
        )
        self._session = BrokerSession(
            address,
            store,
            self.issuers,
            publisher,
            self._desk,
            self.configuration_desk,
            self.facts,
            self.feed,
            clock,
        )
        self.deltas = DeltaStore(delta_dir, self.catalogue.blob_path) if delta_dir else None
        self.transfer_rate = TotalRate(blob_total_bytes_s)
        self.blobs = BlobServer(
            fleet,
            self.blob_path,
            lambda name, payload: self._connection.publish(name, payload, qos=0),
            clock,
            total=self.transfer_rate,
        )
        self._stopping = False
        self.turns = 0
        """How often the loop came round: what a watchdog looks at."""
        self._blob_desk = BlobDesk(
            store, self.catalogue, self.blobs, self.deltas, publisher, self.facts, clock
        )
        self._care = IdentityCare(self.issuers, store, self.facts, clock)
        self.evictions = Evictions(address, self.issuers, self._care.locked_out, clock.wall_s)
        self.reminders = Reminders(repository.archive, self.issuers, clock)
        self._retention = Retention(store, clock, records_kept_s)
        self._poll_due_s = 0.0
        self._hourly_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    # For other threads. -------------------------------------------------------------------------

    def start(self) -> None:
        """Load the store, connect, and run until ``stop``.

        Raises:
            FleetError, TrustError: the repository cannot be read.
        """
        self._watch.begin()
        with self.store.read() as tx:
            self._intake.load(tx)
            self._desk.load(tx)
        if self.deltas is not None:
            self.deltas.start()
        self.blobs.start()
        self._connection.start()
        self._thread.start()

    def stop(self) -> None:
        """End in order: what is queued and not committed will be sent again by the devices."""
        self._stopping = True
        self._inbox.put(None)
        self.evictions.stop()
        if self._thread.is_alive():
            self._thread.join()
        self.blobs.stop()
        if self.deltas is not None:
            self.deltas.stop()
        self._connection.stop()
        self.feed.close()

    def do(self, work: Callable[[], T], *, timeout_s: float = 30.0) -> T:
        """Run ``work`` on the loop's thread and return what it returns or raise what it raises.

        Raises:
            FleetError: the loop has ended, or is too busy to answer in time.
        """
        if self.ended.is_set() or self._stopping:
            raise FleetError("the manager is stopping")
        return self._inbox.do(work, timeout_s=timeout_s)

    def blob_path(self, digest: str) -> Path:
        """The file of a published blob or of a delta between two.

        Raises:
            ContractError: not a digest.
            FleetError: there is no such blob.
        """
        delta = self.deltas.by_digest(digest) if self.deltas else None
        return delta.path if delta else self.catalogue.blob_path(digest)

    @property
    def connected(self) -> bool:
        """Whether the broker is there."""
        return self._connection.up

    @property
    def queue_count(self) -> int:
        """Messages and commands that wait."""
        return len(self._inbox)

    # For work that runs on the loop. ------------------------------------------------------------

    def transact(self, work: Callable[[RolloutTurn], T]) -> T:
        """Run ``work`` with a turn of the rollouts in one transaction, commit, carry out."""
        return self._desk.transact(work)

    def identities_changed(self, gone: Sequence[str] = ()) -> None:
        """Keys were revoked, replaced or removed: read them anew and tell the broker's list.

        Args:
            gone: devices that were removed; what is retained for them is cleared.
        """
        with self.store.read() as tx:
            self._intake.load(tx)
        self._care.write_crl()
        for device in gone:
            self.blobs.forget(device)
            self._publisher.clear(device)
            self.feed.put(self.clock.wall_s(), "device", device, f"{device} was removed")

    def send_command(self, device: str, name: str, *, who: str) -> None:
        """Sign a command for one device and publish it; on the loop only (``do``).

        Raises:
            FleetError: no such device.
        """
        with self.store.read() as tx:
            row = devices.get_device(tx, device)
        if row is None:
            raise FleetError(f"no device {device!r}", exit_code=ExitCode.NOT_FOUND)
        self.audit.record(who, "command", device, name)
        nonce = secrets.token_hex(16)
        envelope = self._director.command(
            row, name, {}, nonce=nonce, now_s=self.clock.wall_s(), life_s=COMMAND_LIFE_S
        )
        self._publisher.command(device, name, envelope)

    # The loop. ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tick_due_s = 0.0
            self._desk.perform()  # what was decided before a crash
            while not self._stopping:
                self.turns += 1
                self._handle(self._inbox.take(max(0.0, tick_due_s - self.clock.monotonic_s())))
                if self.clock.monotonic_s() >= tick_due_s:
                    tick_due_s = self.clock.monotonic_s() + _TICK_S
                    self._tick()
        except Exception as error:  # noqa: BLE001 - the thread's outermost edge: `up` ends with it
            _log.exception("the manager's loop failed")
            self.failure = error
        finally:
            self.ended.set()
            self._inbox.refuse_all()

    def _handle(self, items: Sequence[Any]) -> None:
        batch: list[Inbound] = []
        for item in items:
            if isinstance(item, Inbound):
                batch.append(item)
                continue
            self._ingest(batch)
            batch = []
            if isinstance(item, Connected):
                self._give_all(item)
            elif isinstance(item, Disconnected):
                self.blobs.disconnected()
                self._session.disconnected(item.reason)
            elif isinstance(item, Command):
                item.run(self.facts)
        self._ingest(batch)

    def _ingest(self, batch: list[Inbound]) -> None:
        if not batch:
            return
        while not self._stopping:
            try:
                taken = self._commit(batch)
            except OperationalError as error:
                # A full disk, say. Nothing was acknowledged, so nothing is lost by waiting.
                self.facts.store_refuses(error)
                threading.Event().wait(_STORE_RETRY_S)
                continue
            self.facts.well("store")
            self.facts.ingest_lag_s = self.clock.wall_s() - batch[0].at_s
            self._after_commit(batch, taken)
            return

    def take_in(self, messages: Iterable[SignedMessage]) -> None:
        """Take in messages that came by hand; on the loop only (``do``).

        They count as retained: a device that is told of is not for that reason online.
        """
        now_s = self.clock.wall_s()
        self._ingest([Inbound.by_hand(message, now_s) for message in messages])

    def _commit(self, batch: list[Inbound]) -> Taken:
        with self.store.write() as tx:
            turn = self._desk.open(tx)
            page = self._intake.open(tx, turn)
            for message in batch:
                page.take(message)
            page.write()
            turn.write()
        taken = page.committed()
        self._desk.told(turn)
        return taken

    def _after_commit(self, batch: list[Inbound], taken: Taken) -> None:
        self._connection.acknowledge(batch)
        self._publisher.answers(taken, self.clock.wall_s())
        self._session.heard(taken.heard)
        if taken.back:
            self._hourly_due_s = min(self._hourly_due_s, self.clock.monotonic_s() + _SOON_S)
        for device in taken.gone:
            self.blobs.forget(device)
        replaced = [done.device for _, done in taken.certified if done.replaced_key]
        if replaced:
            self.identities_changed()
            self._desk.renew(replaced)
            self.configuration_desk.renew(replaced)
        self._desk.remind([enrolment.device for enrolment in taken.enrolments])
        for (kind, subject), text in taken.changes.items():
            self.feed.put(self.clock.wall_s(), kind, subject, text)
        for device, ask in taken.asks:
            self._blob_desk.answer(device, ask)
        for device, delta_ask in taken.delta_asks:
            self._blob_desk.answer_delta(device, delta_ask)
        self._desk.perform()

    # Time. --------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = self.clock.monotonic_s()
        try:
            if now_s >= self._poll_due_s:
                self._poll_due_s = now_s + _POLL_REPOSITORY_S
                self._watch.poll()
            if now_s >= self._hourly_due_s:
                self._hourly_due_s = now_s + _HOUR_S
                self._care.hourly()
                self._watch.hourly()
                self.reminders.hourly()
            self._session.mark_missing()
            self._care.note_floods(self._connection.quota.take_dropped())
            self._desk.tick(connected=self.connected)
            self._retention.tick()
        except OperationalError as error:
            self.facts.store_refuses(error)

    def poll_repository(self) -> None:
        """Notice what was published meanwhile; on the loop only (``do``)."""
        self._watch.poll()

    def _give_all(self, event: Connected) -> None:
        """The broker may have forgotten everything: give it all that is retained, once more."""
        try:
            self._session.connected(event.connection)
        except OperationalError as error:
            self.facts.store_refuses(error)
            threading.Event().wait(_STORE_RETRY_S)
            self._inbox.put(event)
