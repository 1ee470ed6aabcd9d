"""Decides on one question for blocks: only blobs of what the device is ordered to run."""

from __future__ import annotations

from sqlalchemy.exc import OperationalError

from edge_contract.errors import ContractError, WherryError
from edge_contract.messages import BlobAsk
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.manager.catalogue import Catalogue
from fleet.manager.facts import Facts
from fleet.manager.publisher import Publisher
from fleet.store import Store, journal, orders
from fleet.transfer.blob_server import BlobServer
from fleet.transfer.fair_queue import check_ask


class BlobDesk:
    """Hands what is allowed to the blob server, and refuses the rest aloud.

    Args:
        store: which order is in force.
        catalogue: which blobs that order needs.
        server: sends the blocks.
        publisher: tells refusals.
        facts: where a store in trouble is told.
        clock: for findings.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        server: BlobServer,
        publisher: Publisher,
        facts: Facts,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._server = server
        self._publisher = publisher
        self._facts = facts
        self._clock = clock

    def answer(self, device: str, ask: BlobAsk) -> None:
        """Answer one question of a device whose signature was checked. On the loop only."""
        try:
            self._answer(device, ask)
        except OperationalError as error:
            self._facts.store_refuses(error)  # the device asks again

    def _answer(self, device: str, ask: BlobAsk) -> None:
        try:
            size_bytes = self._allowed_size(device, ask.digest)
            self._server.ask(device, check_ask(ask, size_bytes))
        except ContractError as error:
            self._publisher.refuse_blob(device, ask.digest, error.message)
            self._find(device, error.message)
        except (WherryError, OSError) as error:
            self._publisher.refuse_blob(device, ask.digest, str(error))

    def _allowed_size(self, device: str, digest: str) -> int:
        with self._store.read() as tx:
            order = orders.current_order(tx, device)
        if order is None or not order.digest:
            raise FleetError("nothing is ordered for this device")
        if digest not in self._catalogue.blobs_of(order.digest):
            raise FleetError(f"not part of {order.line} {order.version}, which is ordered")
        return self._catalogue.blob_path(digest).stat().st_size

    def _find(self, device: str, detail: str) -> None:
        with self._store.write() as tx:
            journal.add_finding(
                tx,
                device=device,
                kind="malformed",
                cls="blob",
                detail=detail,
                now_s=self._clock.wall_s(),
            )
