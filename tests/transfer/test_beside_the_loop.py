"""A card that is slow to read holds up the worker, never the loop that feeds the watchdog."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from edge_agent.transfer.beside import Worked, on_worker
from edge_agent.transfer.fetch import BundleFetcher, Network
from edge_agent.transfer.pace import Pace
from edge_agent.transfer.partial import PartialBlob
from edge_agent.transfer.pull import BlobPuller
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.update.order import Order
from edge_agent.update.worker import Worker
from edge_contract.manifest import Descriptor
from edge_contract.messages import BlobAsk
from tests.agent.test_transfer import BLOCK_BYTES, blob, blocks_of, message

PATIENCE_S = 10.0
"""Only a loop that waits for the card waits as long; it then fails the test, and does not hang."""


@dataclass
class Card:
    """Reading from it stops until the test lets it go on."""

    reached: threading.Event = field(default_factory=threading.Event)
    free: threading.Event = field(default_factory=threading.Event)
    in_time: bool = True

    def read(self) -> None:
        self.reached.set()
        self.in_time &= self.free.wait(PATIENCE_S)


@dataclass
class Loop:
    """The agent's queue, its worker, and a slow card."""

    card: Card
    worker: Worker
    events: queue.Queue[Any]

    def turn(self) -> object:
        """Take one event, as the agent does."""
        event = self.events.get(timeout=PATIENCE_S)
        if isinstance(event, Worked):
            event.go()
        return event


@pytest.fixture
def loop() -> Iterator[Loop]:
    events: queue.Queue[Any] = queue.Queue()
    made = Loop(Card(), Worker(events.put), events)
    yield made
    made.card.free.set()
    made.worker.stop()
    assert made.card.in_time, "the loop waited for the card"


@pytest.fixture
def slow(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    real = PartialBlob._read_chunks

    def read(self: PartialBlob) -> Iterator[bytes]:
        loop.card.read()
        yield from real(self)

    monkeypatch.setattr(PartialBlob, "_read_chunks", read)


def give(puller: BlobPuller, descriptor: Descriptor, data: bytes) -> None:
    for index, part in enumerate(blocks_of(data)):
        puller.block(message(descriptor, index, part), 0.0)


@pytest.mark.usefixtures("slow")
def test_a_blob_is_hashed_while_the_loop_goes_on_with_others(tmp_path: Path, loop: Loop) -> None:
    asked: list[BlobAsk] = []
    ended: list[str] = []
    puller = BlobPuller(
        tmp_path,
        lambda ask: not asked.append(ask),  # type: ignore[func-returns-value]
        ended.append,
        beside=on_worker(loop.worker, loop.events.put),
    )
    (one, d1), (two, d2) = blob(1, 3 * BLOCK_BYTES), blob(2, 2 * BLOCK_BYTES)
    puller.want([d1, d2], 0.0)
    give(puller, d1, one)
    assert loop.card.reached.wait(PATIENCE_S)
    give(puller, d2, two)
    puller.tick(1.0, online=True)
    assert (ended, puller.digests) == ([], [])
    # Ordered anew meanwhile: what is being checked is neither asked for nor touched again.
    asked.clear()
    puller.want([d1, d2], 2.0)
    puller.reconnected(3.0)
    assert asked == []
    loop.card.free.set()
    while not ended:
        loop.turn()
    assert ended == [""]
    assert puller.blob(d1.digest).read_bytes() == one
    assert puller.blob(d2.digest).read_bytes() == two
    assert not list((tmp_path / "incoming").iterdir())


@pytest.mark.usefixtures("slow")
def test_what_was_given_up_while_it_was_checked_ends_nothing(tmp_path: Path, loop: Loop) -> None:
    ended: list[str] = []
    puller = BlobPuller(
        tmp_path, lambda ask: True, ended.append, beside=on_worker(loop.worker, loop.events.put)
    )
    data, descriptor = blob(1, 2 * BLOCK_BYTES)
    puller.want([descriptor], 0.0)
    give(puller, descriptor, bytes(len(data)))  # other bytes than were approved
    assert loop.card.reached.wait(PATIENCE_S)
    puller.cancel()
    loop.card.free.set()
    loop.turn()
    assert ended == []
    puller.want([descriptor], 1.0)
    give(puller, descriptor, data)
    while not ended:
        loop.turn()
    assert ended == [""]
    assert puller.blob(descriptor.digest).read_bytes() == data


@pytest.mark.usefixtures("slow")
@pytest.mark.parametrize("moved", [False, True], ids=["while_it_is_read", "when_it_has_moved"])
def test_cleaning_leaves_alone_what_is_checked_and_ordered_again(
    moved: bool, tmp_path: Path, loop: Loop
) -> None:
    ended: list[str] = []
    puller = BlobPuller(
        tmp_path, lambda ask: True, ended.append, beside=on_worker(loop.worker, loop.events.put)
    )
    (data, descriptor), (_, newer) = blob(1, 2 * BLOCK_BYTES), blob(2, 2 * BLOCK_BYTES)
    puller.want([descriptor], 0.0)
    give(puller, descriptor, data)
    assert loop.card.reached.wait(PATIENCE_S)
    puller.want([newer], 1.0)  # superseded by another order, which has begun and is taken back
    puller.cancel()
    if moved:
        loop.card.free.set()
        event = loop.events.get(timeout=PATIENCE_S)
    puller.clean()
    puller.want([descriptor], 2.0)
    loop.card.free.set()
    if moved:
        event.go()
    while not ended:
        loop.turn()
    assert ended == [""]
    assert puller.blob(descriptor.digest).read_bytes() == data


@pytest.mark.usefixtures("slow")
def test_what_was_checked_behind_a_cleaning_and_is_not_wanted_goes(
    tmp_path: Path, loop: Loop
) -> None:
    puller = BlobPuller(
        tmp_path,
        lambda ask: True,
        lambda reason: None,
        beside=on_worker(loop.worker, loop.events.put),
    )
    data, descriptor = blob(1, 2 * BLOCK_BYTES)
    puller.want([descriptor], 0.0)
    give(puller, descriptor, data)
    assert loop.card.reached.wait(PATIENCE_S)
    puller.cancel()
    puller.clean()
    loop.card.free.set()
    loop.turn()
    assert not list(puller.blob_dir.iterdir())


def test_looking_through_the_slots_is_the_worker_s_work(tmp_path: Path, loop: Loop) -> None:
    data, manifest = blob(3, BLOCK_BYTES)
    in_slot = tmp_path / "kept"
    in_slot.write_bytes(data)

    def slow_slot(digest: str) -> Path:
        loop.card.read()
        return in_slot

    asked: list[BlobAsk] = []
    fetcher = BundleFetcher(
        tmp_path,
        Network(
            ask=lambda ask: not asked.append(ask),  # type: ignore[func-returns-value]
            ask_delta=lambda ask: False,
            held=list,
            aside=loop.worker,
            post=loop.events.put,
            pace=Pace(),
        ),
        approved=lambda version, digest: ApprovedTarget(version, digest, manifest.size),
        in_slot=slow_slot,
        line="digits",
        hardware="x86-64",
        post=loop.events.put,
        monotonic_s=lambda: 0.0,
    )
    order = Order(epoch=1, seq=1, digest=manifest.digest, line="digits", version="1.0.0")
    fetcher.start_fetch(1, order)
    assert loop.card.reached.wait(PATIENCE_S)
    fetcher.cancel()
    fetcher.start_fetch(2, order)  # a newer order, while the card is still being read
    loop.card.free.set()
    loop.turn()
    assert fetcher.puller.progress.total_bytes == 0, "nothing of what was given up goes on"
    loop.turn()
    assert fetcher.blob(manifest.digest).read_bytes() == data
    assert asked == [], "what a slot holds is not asked for"
