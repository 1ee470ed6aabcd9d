"""Carries out what rollouts decide: step them, commit, then sign, store and publish orders.

What a crash cuts off stays in the outbox of the store, and is done at the next start.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from sqlalchemy import Connection as Transaction
from sqlalchemy.exc import OperationalError

from edge_contract.errors import WherryError
from fleet.clock import Clock
from fleet.manager.facts import Facts
from fleet.manager.feed import Feed
from fleet.manager.orders import Orders
from fleet.manager.publisher import Publisher
from fleet.manager.rollouts import Rollouts, RolloutTurn
from fleet.store import Store, orders

T = TypeVar("T")


class RolloutDesk:
    """On the loop only.

    Args:
        store: rollouts, orders and the outbox between them.
        signer: makes orders of decisions.
        publisher: sends them.
        facts: where trouble is told.
        feed: what people see.
        clock: wall.
    """

    def __init__(
        self,
        store: Store,
        signer: Orders,
        publisher: Publisher,
        facts: Facts,
        feed: Feed,
        clock: Clock,
    ) -> None:
        self._store = store
        self._signer = signer
        self._publisher = publisher
        self._facts = facts
        self._feed = feed
        self._clock = clock
        self._rollouts = Rollouts()
        self._perform_again = False

    def load(self, tx: Transaction) -> None:
        """Read the store, once at the start."""
        self._rollouts.load(tx)

    def open(self, tx: Transaction) -> RolloutTurn:
        """Begin to step rollouts within the transaction ``tx``; ``told`` after its commit."""
        return self._rollouts.open(tx, self._clock.wall_s())

    def told(self, turn: RolloutTurn) -> None:
        """The turn is committed: it becomes the truth in memory, and people see it."""
        for rollout, text in turn.committed():
            self._feed.put(turn.now_s, "rollout", rollout, text)

    def transact(self, work: Callable[[RolloutTurn], T]) -> T:
        """Run ``work`` with a turn of the rollouts in one transaction, commit, carry out."""
        with self._store.write() as tx:
            turn = self.open(tx)
            result = work(turn)
            turn.write()
        self.told(turn)
        self.perform()
        return result

    def perform(self) -> None:
        """Sign, store, and then publish what rollouts decided, until nothing is left.

        What cannot be signed or stored stays in the outbox; the next tick tries again.
        """
        self._perform_again = True
        while True:
            try:
                with self._store.write() as tx:
                    turn = self.open(tx)
                    issued = self._signer.perform(tx, turn)
                    turn.write()
            except WherryError as error:
                self._facts.trouble("signing", error.message)
                return
            except OperationalError as error:
                self._facts.store_refuses(error)
                return
            self._facts.well("signing")
            self.told(turn)
            self._publisher.orders(issued)
            if not issued:
                self._perform_again = False
                return

    def tick(self, *, connected: bool) -> None:
        """Try again what could not be carried out, and let time pass."""
        if self._perform_again:
            self.perform()
        lines = self._rollouts.ticking()
        # Without a broker nobody can answer: no time passes for a rollout that cannot see.
        if lines and connected:
            self.transact(lambda turn: turn.tick(lines))

    def renew_due(self) -> None:
        """Sign anew what is old, or by a director key that was revoked."""
        try:
            issued = self.transact(lambda turn: self._signer.renew_due(turn.tx, turn))
            problem = self.transact(lambda turn: self._signer.epoch_problem(turn.tx))
        except WherryError as error:
            self._facts.trouble("signing", error.message)
            return
        self._publisher.orders(issued)
        if problem:
            self._facts.trouble("epoch", problem)
        else:
            self._facts.well("epoch")

    def renew(self, replaced: Iterable[str]) -> None:
        """New hardware under an old name: the order in force has to name its key."""
        issued = self.transact(
            lambda turn: [
                order for device in replaced for order in self._signer.renew(turn.tx, turn, device)
            ]
        )
        self._publisher.orders(issued)

    def remind(self, here: Sequence[str]) -> None:
        """An order that was withdrawn while a device was away left nothing that is retained."""
        if not here:
            return
        with self._store.read() as tx:
            found = [orders.current_order(tx, device) for device in here]
        self._publisher.orders(order for order in found if order and not order.envelope)
