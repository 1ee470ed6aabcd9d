"""A web server whose blobs are not those that were approved is left for the fleet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import cast

from edge_agent.transfer.block_sources import BlockSources
from edge_agent.transfer.fetch import BundleFetcher, Network
from edge_agent.transfer.http_source import HttpBlock, HttpSource
from edge_agent.transfer.pace import Pace
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.update.events import Event
from edge_agent.update.order import Order
from edge_contract.digest import digest_of
from edge_contract.messages import BlobAsk, BlobBlock, DeltaAsk

DATA = b"manifest" * 100
DIGEST = digest_of(DATA)


class Web:
    """A web server's side of the agent."""

    def __init__(self) -> None:
        self.usable = True
        self.asked: list[BlobAsk] = []

    def ask(self, ask: BlobAsk) -> bool:
        self.asked.append(ask)
        return True

    def failed(self) -> None:
        self.usable = False


class Aside:
    """Work is done at once."""

    def start(self, work: Callable[[], Event | None]) -> None:
        work()


def block(data: bytes, size_bytes: int = len(DATA)) -> BlobBlock:
    return BlobBlock(digest=DIGEST, offset_bytes=0, size_bytes=size_bytes, data=data)


def no_delta(ask: DeltaAsk) -> bool:
    return False


def test_wrong_bytes_from_the_web_are_fetched_again_from_the_fleet(tmp_path: Path) -> None:
    web, fleet, said = Web(), list[BlobAsk](), list[str]()
    posted: list[Event] = []

    def ask_fleet(ask: BlobAsk) -> bool:
        fleet.append(ask)
        return True

    sources = BlockSources(cast(HttpSource, web), ask_fleet, said.append)
    target = SimpleNamespace(digest=DIGEST, length_bytes=len(DATA))
    fetcher = BundleFetcher(
        tmp_path,
        Network(
            ask=sources.ask,
            ask_delta=no_delta,
            held=list,
            aside=Aside(),
            post=lambda event: event.go(),
            pace=Pace(),
            elsewhere=sources.leave_http,
        ),
        approved=lambda version, digest: cast(ApprovedTarget, target),
        in_slot=lambda digest: None,
        line="digits",
        hardware="generic-x86-64",
        post=posted.append,
        monotonic_s=lambda: 0.0,
    )
    fetcher.start_fetch(1, cast(Order, SimpleNamespace(version="1.0.0", digest=DIGEST)))
    assert len(web.asked) == 1
    fetcher.block(block(b"X" * len(DATA)), 0.1)
    assert posted == [], "the order has not failed"
    assert [ask.digest for ask in fleet] == [DIGEST]
    assert "damaged or tampered with; MQTT takes over" in said[0]

    fetcher.block(block(b"Y" * len(DATA)), 0.2)
    assert len(posted) == 1, "the fleet's own bytes are wrong as well: no third source"


def test_a_blob_of_another_length_does_not_count_and_nothing_does_after_that() -> None:
    web = Web()
    sources = BlockSources(cast(HttpSource, web), lambda ask: True, lambda reason: None)
    assert sources.counts(HttpBlock(block(DATA), 900), len(DATA))
    assert sources.counts(HttpBlock(block(DATA), 900), None)
    assert not sources.counts(HttpBlock(block(DATA[:400], 400), 500), len(DATA))
    assert sources.leave_http("another length")
    assert not sources.leave_http("again")
    assert not sources.counts(HttpBlock(block(DATA), 900), len(DATA))
