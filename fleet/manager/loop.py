"""The manager: one thread that owns the store and reads one queue.

Network, pages and command line only post to the queue. The order of things is always the same:
take in, commit, acknowledge to the broker, then answer devices and publish orders. Whatever a
crash cuts off after the commit is done again: devices send again what was not acknowledged, and
orders are published anew on the next CONNACK.
"""

from __future__ import annotations

import logging
import queue
import secrets
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sqlalchemy.exc import OperationalError

from edge_contract.errors import ExitCode, WherryError
from edge_contract.receipt import SignedMessage
from edge_contract.topics import manager_filters
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.identity.certificates import MANAGER
from fleet.identity.desk import IdentityDesk
from fleet.identity.issuers import Issuers
from fleet.manager.blob_desk import BlobDesk
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.catalogue import Catalogue
from fleet.manager.configurations import Configurations
from fleet.manager.connection import Connected, Connection, Disconnected, Inbound
from fleet.manager.director import Director
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.identity_care import IdentityCare
from fleet.manager.intake import Intake, Taken
from fleet.manager.orders import Orders
from fleet.manager.publisher import Publisher
from fleet.manager.roll_call import RollCall
from fleet.manager.rollouts import Rollouts, RolloutTurn
from fleet.repository.tuf_repository import Repository
from fleet.rollout.events import DeviceOffline
from fleet.store import Store, devices, journal, orders
from fleet.store.configurations import ConfigurationRow, all_configurations
from fleet.transfer.blob_server import BlobServer
from fleet.transfer.delta_store import DeltaStore

_BATCH = 500
_TICK_S = 0.5
_HOUR_S = 3600.0
_POLL_REPOSITORY_S = 1.0
_STORE_RETRY_S = 1.0
COMMAND_LIFE_S = 3600.0
"""A device that is away for longer does not get the command."""

T = TypeVar("T")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Command:
    work: Callable[[], Any]
    done: Future[Any]


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
        blob_total_bytes_s: what all devices may pull together; 0 for no limit.
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
        self._repository = repository
        director = Director(fleet, repository.director_key, repository.director_epoch)
        self._director = director
        self._orders = Orders(director, self.catalogue)
        self.configurations = Configurations(director)
        self.issuers = issuers or Issuers(None, fleet)
        self._intake = Intake(fleet, IdentityDesk(self.issuers))
        self._rollouts = Rollouts()
        self._inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._connection = Connection(
            address,
            f"{fleet}/{MANAGER}",
            manager_filters(fleet),
            self._inbox,
            clock,
            lambda: self.issuers.tls_context(MANAGER),
        )
        self._publisher = Publisher(fleet, self._connection, director, self.catalogue)
        self.deltas = DeltaStore(delta_dir, self.catalogue.blob_path) if delta_dir else None
        self.blobs = BlobServer(
            fleet,
            self.blob_path,
            lambda name, payload: self._connection.publish(name, payload, qos=0),
            clock,
            total_bytes_s=blob_total_bytes_s,
        )
        self._stopping = False
        self.turns = 0
        """How often the loop came round: what a watchdog looks at."""
        self._blob_desk = BlobDesk(
            store, self.catalogue, self.blobs, self.deltas, self._publisher, self.facts, clock
        )
        self._care = IdentityCare(self.issuers, store, self.facts, clock)
        self._roll_call = RollCall()
        self._perform_again = False
        self._poll_due_s = 0.0
        self._hourly_due_s = 0.0
        self._thread = threading.Thread(target=self._run, name="manager", daemon=True)

    # For other threads. -------------------------------------------------------------------------

    def start(self) -> None:
        """Load the store, connect, and run until ``stop``.

        Raises:
            FleetError, TrustError: the repository cannot be read.
        """
        self._repository.initialise()
        self._load_repository()
        with self.store.read() as tx:
            self._intake.load(tx)
            self._rollouts.load(tx)
        if self.deltas is not None:
            self.deltas.start()
        self.blobs.start()
        self._connection.start()
        self._thread.start()

    def stop(self) -> None:
        """End in order: what is queued and not committed will be sent again by the devices."""
        self._stopping = True
        self._inbox.put(None)
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
        done: Future[T] = Future()
        self._inbox.put(_Command(work, done))
        try:
            return done.result(timeout_s)
        except FutureTimeoutError as error:
            # Whoever is told that it failed must not find it done an hour later.
            never = done.cancel()
            raise FleetError(
                f"the manager did not get to it within {timeout_s:g} s"
                f" ({self.facts.problem or 'it is busy'}); "
                + ("it will not be done" if never else "it is under way and may still be done"),
                hint="edge-fleet doctor",
            ) from error

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
        return self._inbox.qsize()

    # For work that runs on the loop. ------------------------------------------------------------

    def transact(self, work: Callable[[RolloutTurn], T]) -> T:
        """Run ``work`` with a turn of the rollouts in one transaction, commit, carry out."""
        with self.store.write() as tx:
            turn = self._rollouts.open(tx, self.clock.wall_s())
            result = work(turn)
            turn.write()
        self._tell_rollouts(turn)
        self._perform()
        return result

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

    def record_refusal(self, who: str, action: str, subject: str, reason: str, why: str) -> None:
        """Put an order that was refused into the audit."""
        with self.store.write() as tx:
            now_s = self.clock.wall_s()
            journal.add_audit(tx, now_s, who, action, subject, reason, f"refused: {why}")
        self.record(who, f"{action} (refused)", subject, f"{reason} {why}".strip())

    def record(self, who: str, action: str, subject: str, detail: str) -> None:
        """Append to the signed audit log.

        Raises:
            FleetError: the audit key is missing.
        """
        with self._repository.archive.exclusive():
            self._repository.archive.record(who, action, subject, detail)

    def send_command(self, device: str, name: str, *, who: str) -> None:
        """Sign a command for one device and publish it; on the loop only (``do``).

        Raises:
            FleetError: no such device.
        """
        with self.store.read() as tx:
            row = devices.get_device(tx, device)
        if row is None:
            raise FleetError(f"no device {device!r}", exit_code=ExitCode.NOT_FOUND)
        self.record(who, "command", device, name)
        nonce = secrets.token_hex(16)
        envelope = self._director.command(
            row, name, {}, nonce=nonce, now_s=self.clock.wall_s(), life_s=COMMAND_LIFE_S
        )
        self._publisher.command(device, name, envelope)

    def give_configurations(self, rows: Sequence[ConfigurationRow]) -> None:
        """Publish what is wanted of devices' settings, once it is committed; on the loop only."""
        self._publisher.configurations(rows)
        for row in rows:
            self.feed.put(self.clock.wall_s(), "device", row.device)

    # The loop. ----------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            tick_due_s = 0.0
            self._perform()  # what was decided before a crash
            while not self._stopping:
                self.turns += 1
                now_s = self.clock.monotonic_s()
                self._handle(self._drain(max(0.0, tick_due_s - now_s)))
                if self.clock.monotonic_s() >= tick_due_s:
                    tick_due_s = self.clock.monotonic_s() + _TICK_S
                    self._tick()
        except Exception as error:  # noqa: BLE001 - the thread's outermost edge: `up` ends with it
            _log.exception("the manager's loop failed")
            self.failure = error
        finally:
            self.ended.set()
            for item in self._drain(0.0):
                if isinstance(item, _Command) and item.done.set_running_or_notify_cancel():
                    item.done.set_exception(FleetError("the manager is stopping"))

    def _drain(self, timeout_s: float) -> list[Any]:
        items: list[Any] = []
        try:
            items.append(self._inbox.get(timeout=timeout_s))
            while len(items) < _BATCH:
                items.append(self._inbox.get_nowait())
        except queue.Empty:
            pass
        return items

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
                self._disconnected(item.reason)
            elif isinstance(item, _Command):
                self._execute(item)
        self._ingest(batch)

    def _execute(self, command: _Command) -> None:
        if not command.done.set_running_or_notify_cancel():
            return  # whoever asked has given up
        try:
            command.done.set_result(command.work())
        except WherryError as error:
            command.done.set_exception(error)
        except OperationalError as error:
            self.facts.store_refuses(error)
            command.done.set_exception(FleetError(self.facts.problem, hint="edge-fleet doctor"))
        except BaseException as error:
            command.done.set_exception(FleetError(f"the manager failed: {error!r}"))
            raise

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
        self._ingest(
            [
                Inbound(
                    topic=message.topic,
                    payload=message.payload,
                    signature=message.signature,
                    retained=True,
                    mid=0,
                    qos=1,
                    connection=-1,
                    at_s=now_s,
                )
                for message in messages
            ]
        )

    def _commit(self, batch: list[Inbound]) -> Taken:
        with self.store.write() as tx:
            turn = self._rollouts.open(tx, self.clock.wall_s())
            page = self._intake.open(tx, turn)
            for message in batch:
                page.take(message)
            page.write()
            turn.write()
        taken = page.committed()
        self._tell_rollouts(turn)
        return taken

    def _after_commit(self, batch: list[Inbound], taken: Taken) -> None:
        self._connection.acknowledge(batch)
        self._publisher.answers(taken, self.clock.wall_s())
        self._roll_call.heard(taken.heard)
        for device in taken.gone:
            self.blobs.forget(device)
        self._replaced([done.device for _, done in taken.certified if done.replaced_key])
        self._remind([enrolment.device for enrolment in taken.enrolments])
        for (kind, subject), text in taken.changes.items():
            self.feed.put(self.clock.wall_s(), kind, subject, text)
        for device, ask in taken.asks:
            self._blob_desk.answer(device, ask)
        for device, delta_ask in taken.delta_asks:
            self._blob_desk.answer_delta(device, delta_ask)
        self._perform()

    def _remind(self, here: list[str]) -> None:
        """An order that was withdrawn while a device was away left nothing that is retained."""
        if not here:
            return
        with self.store.read() as tx:
            found = [orders.current_order(tx, device) for device in here]
        self._publisher.orders(order for order in found if order and not order.envelope)

    def _replaced(self, replaced: list[str]) -> None:
        """New hardware under an old name: the order in force has to name its key."""
        if not replaced:
            return
        self.identities_changed()
        issued = self.transact(
            lambda turn: [
                order for device in replaced for order in self._orders.renew(turn.tx, turn, device)
            ]
        )
        self._publisher.orders(issued)
        self.give_configurations(
            self.transact(lambda turn: self.configurations.renew(turn.tx, replaced, turn.now_s))
        )

    # Time. --------------------------------------------------------------------------------------

    def _tick(self) -> None:
        now_s = self.clock.monotonic_s()
        try:
            if now_s >= self._poll_due_s:
                self._poll_due_s = now_s + _POLL_REPOSITORY_S
                self.poll_repository()
            if now_s >= self._hourly_due_s:
                self._hourly_due_s = now_s + _HOUR_S
                self._hourly()
            self._mark_offline(self._roll_call.missing(now_s))
            self._care.note_floods(self._connection.quota.take_dropped())
            if self._perform_again:
                self._perform()
            lines = self._rollouts.ticking()
            # Without a broker nobody can answer: no time passes for a rollout that cannot see.
            if lines and self.connected:
                self.transact(lambda turn: turn.tick(lines))
        except OperationalError as error:
            self.facts.store_refuses(error)

    def poll_repository(self) -> None:
        """Notice what was published meanwhile; on the loop only (``do``)."""
        if self._load_repository():
            self._director.look_again()
            self._publisher.metadata()
            for line in self.catalogue.edition.metadata:
                self.feed.put(self.clock.wall_s(), "repository", line)
            self._renew_orders()

    def _load_repository(self) -> bool:
        try:
            changed = self.catalogue.reload()
        except WherryError as error:
            self.facts.trouble("repository", error.message)
            return False
        self.facts.well("repository")
        return changed

    def _hourly(self) -> None:
        self._care.hourly()
        try:
            self._repository.refresh_timestamp()
        except WherryError as error:
            self.facts.trouble("signing", error.message)
            return
        self._renew_orders()

    def _renew_orders(self) -> None:
        """Sign anew what is old, or by a director key that was revoked."""
        try:
            self._publisher.orders(
                self.transact(lambda turn: self._orders.renew_due(turn.tx, turn))
            )
            self.give_configurations(
                self.transact(lambda turn: self.configurations.renew_due(turn.tx, turn.now_s))
            )
            problem = self.transact(lambda turn: self._orders.epoch_problem(turn.tx))
        except WherryError as error:
            self.facts.trouble("signing", error.message)
            return
        if problem:
            self.facts.trouble("epoch", problem)
        else:
            self.facts.well("epoch")

    def _mark_offline(self, gone: list[str]) -> None:
        def mark(turn: RolloutTurn) -> None:
            for device in gone:
                row = devices.get_device(turn.tx, device)
                if row is not None and row.online:
                    devices.change_device(turn.tx, device, online=False)
                    turn.feed(row.line, DeviceOffline(now_s=turn.now_s, device=device))

        if gone:
            self.transact(mark)
            for device in gone:
                self.feed.put(self.clock.wall_s(), "device", device)

    # Towards the broker. ------------------------------------------------------------------------

    def _give_all(self, event: Connected) -> None:
        """The broker may have forgotten everything: give it all that is retained, once more."""
        try:
            self._connected(event.connection)
        except OperationalError as error:
            self.facts.store_refuses(error)
            threading.Event().wait(_STORE_RETRY_S)
            self._inbox.put(event)

    def _connected(self, connection: int) -> None:
        now_s = self.clock.wall_s()
        self.facts.reconnects_count = connection - 1
        self.facts.connected_since_s = now_s
        self.facts.well("broker")
        _log.info("connected to the broker at %s", self.address)
        self._publisher.metadata()
        if self.issuers.installed:
            self._publisher.authority(self.issuers.ca_pem)
        with self.store.read() as tx:
            current = orders.current_orders(tx)
            wanted = list(all_configurations(tx).values())
            online = [row.device for row in devices.list_devices(tx) if row.online]
        self._publisher.orders(current)
        self._publisher.configurations(wanted)
        self._roll_call.begin(online, self.clock.monotonic_s())
        self.feed.put(now_s, "broker", str(self.address), "connected to the broker")

    def _disconnected(self, reason: str) -> None:
        self.blobs.disconnected()
        self._roll_call.lost()
        problem = f"no connection to the broker: {reason}"
        if self.facts.trouble("broker", problem):
            self.feed.put(self.clock.wall_s(), "broker", str(self.address), problem)
        self.facts.connected_since_s = None

    def _perform(self) -> None:
        """Sign, store, and then publish what rollouts decided, until nothing is left.

        What cannot be signed or stored stays in the outbox; the next tick tries again.
        """
        self._perform_again = True
        while True:
            try:
                with self.store.write() as tx:
                    turn = self._rollouts.open(tx, self.clock.wall_s())
                    issued = self._orders.perform(tx, turn)
                    turn.write()
            except WherryError as error:
                self.facts.trouble("signing", error.message)
                return
            except OperationalError as error:
                self.facts.store_refuses(error)
                return
            self.facts.well("signing")
            self._tell_rollouts(turn)
            self._publisher.orders(issued)
            if not issued:
                self._perform_again = False
                return

    # What people see. ---------------------------------------------------------------------------

    def _tell_rollouts(self, turn: RolloutTurn) -> None:
        for rollout, text in turn.committed():
            self.feed.put(turn.now_s, "rollout", rollout, text)
