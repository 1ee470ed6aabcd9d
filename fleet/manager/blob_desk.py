"""Decides on questions for blocks and deltas: only what leads to what a device shall run."""

from __future__ import annotations

from sqlalchemy.exc import OperationalError

from edge_contract.errors import ContractError, WherryError
from edge_contract.messages import BlobAsk, DeltaAsk, DeltaOffer
from fleet.clock import Clock
from fleet.errors import FleetError
from fleet.manager.catalogue import Catalogue
from fleet.manager.facts import Facts
from fleet.manager.publisher import Publisher
from fleet.store import Store, journal, orders
from fleet.transfer.blob_server import BlobServer
from fleet.transfer.delta_store import DeltaStore, MadeDelta
from fleet.transfer.fair_queue import check_ask

DELTA_WAIT_S = 2.0
"""After so long a device asks again for a delta that is being made."""
_BASES_MAX = 2
"""More are not tried: the first that a device names is the likeliest."""


class BlobDesk:
    """Hands what is allowed to the blob server, and refuses the rest aloud.

    Args:
        store: which order is in force.
        catalogue: which blobs that order needs.
        server: sends the blocks.
        deltas: makes and keeps deltas; None: blobs go out whole.
        publisher: tells refusals.
        facts: where a store in trouble is told.
        clock: for findings.
    """

    def __init__(
        self,
        store: Store,
        catalogue: Catalogue,
        server: BlobServer,
        deltas: DeltaStore | None,
        publisher: Publisher,
        facts: Facts,
        clock: Clock,
    ) -> None:
        self._store = store
        self._catalogue = catalogue
        self._server = server
        self._deltas = deltas
        self._publisher = publisher
        self._facts = facts
        self._clock = clock

    def answer(self, device: str, ask: BlobAsk) -> None:
        """Answer one question of a device whose signature was checked. On the loop only."""
        try:
            self._answer(device, ask)
        except OperationalError as error:
            self._facts.store_refuses(error)  # the device asks again

    def answer_delta(self, device: str, ask: DeltaAsk) -> None:
        """Answer one question for a delta, likewise."""
        try:
            self._publisher.offer_delta(device, self._offer(device, ask))
        except OperationalError as error:
            self._facts.store_refuses(error)
        except (WherryError, OSError) as error:
            self._publisher.refuse_blob(device, ask.digest, str(error))

    def _offer(self, device: str, ask: DeltaAsk) -> DeltaOffer:
        self._allowed_size(device, ask.digest)
        if self._deltas is None:
            return DeltaOffer(digest=ask.digest)
        found: list[MadeDelta] = []
        known = True
        for base in [item for item in ask.have if self._is_published(item)][:_BASES_MAX]:
            settled, delta = self._deltas.find(base, ask.digest)
            known = known and settled
            if delta is not None:
                found.append(delta)
        if found:
            best = min(found, key=lambda delta: delta.size_bytes)
            return DeltaOffer(
                digest=ask.digest,
                base=best.base,
                delta=best.digest,
                size_bytes=best.size_bytes,
            )
        return DeltaOffer(digest=ask.digest, wait_s=0.0 if known else DELTA_WAIT_S)

    def _is_published(self, digest: str) -> bool:
        try:
            self._catalogue.blob_path(digest)
        except WherryError:
            return False
        return True

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
        blobs = self._catalogue.blobs_of(order.digest)
        delta = self._deltas.by_digest(digest) if self._deltas else None
        if delta is not None and delta.target in blobs:
            return delta.size_bytes
        if digest not in blobs:
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
