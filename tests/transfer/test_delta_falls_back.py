"""A delta whose base is gone, or that does not give the blob: the blob comes whole, once."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.transfer.fetch import BundleFetcher, Network
from edge_agent.transfer.pace import Pace
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.update.events import Event
from edge_agent.update.order import Order
from edge_contract.digest import digest_of
from edge_contract.manifest import MANIFEST_MEDIA_TYPE, Descriptor
from edge_contract.messages import BlobAsk, BlobBlock, DeltaAsk, DeltaOffer
from fleet.transfer.delta_coders import subtract_delta
from tests.transfer.test_block_sources import Aside
from tests.transfer.test_delta import BASE, TARGET, retrained, weights

WANTED, BASE_DIGEST = digest_of(TARGET), digest_of(BASE)


class Fetching:
    """A fetcher on a device that holds ``BASE``, and a fleet that offers one delta."""

    def __init__(self, home: Path, delta: bytes) -> None:
        self.blobs = {digest_of(data): data for data in (delta, TARGET)}
        self.asked: list[str] = []
        self.held = home / "slot"
        self.held.write_bytes(BASE)
        self.fetcher = BundleFetcher(
            home / "state",
            Network(
                ask=self.ask,
                ask_delta=self.ask_delta,
                held=self.holds,
                aside=Aside(),
                post=lambda event: event.go(),
                pace=Pace(),
            ),
            approved=lambda version, digest: ApprovedTarget(version, digest, len(TARGET)),
            in_slot=lambda digest: self.held if self.held.exists() else None,
            line="digits",
            hardware="generic-x86-64",
            post=self.hear,
            monotonic_s=lambda: 0.0,
        )
        # The blob itself must not be found in a slot, so its base is named only once it is asked.
        self.held.rename(home / "away")
        order = Order(epoch=1, seq=1, digest=WANTED, line="digits", version="1.0.0")
        self.fetcher.start_fetch(1, order)
        (home / "away").rename(self.held)
        offer = DeltaOffer(
            digest=WANTED, base=BASE_DIGEST, delta=digest_of(delta), size_bytes=len(delta)
        )
        self.fetcher.offered(offer, 0.0)

    def ask(self, ask: BlobAsk) -> bool:
        self.asked.append(ask.digest)
        return True

    def ask_delta(self, ask: DeltaAsk) -> bool:
        return True

    def holds(self) -> list[Descriptor]:
        return [Descriptor(media_type=MANIFEST_MEDIA_TYPE, digest=BASE_DIGEST, size=len(BASE))]

    def hear(self, event: Event) -> None:
        """The "manifest" here is none: what comes after the fetch does not matter."""

    def send(self) -> None:
        """What was asked for last, whole."""
        digest = self.asked[-1]
        data = self.blobs[digest]
        block = BlobBlock(digest=digest, offset_bytes=0, size_bytes=len(data), data=data)
        self.fetcher.block(block, 0.1)


@pytest.mark.parametrize("case", ["good", "base gone", "base changed", "for another", "refused"])
def test_a_delta_that_does_not_serve_costs_time_and_no_blob(case: str, tmp_path: Path) -> None:
    target = retrained(BASE, 0.3, seed=6) if case == "for another" else TARGET
    update = Fetching(tmp_path, subtract_delta(BASE, target))
    assert update.asked[-1] != WANTED, "the delta is pulled"
    if case == "base gone":
        update.held.unlink()
    elif case == "base changed":
        update.held.write_bytes(weights(98))
    if case == "refused":
        update.fetcher.refused(update.asked[-1], "gone meanwhile")
    else:
        update.send()
    if case == "good":
        assert WANTED not in update.asked
    else:
        assert update.asked[-1] == WANTED
        update.send()
    assert update.fetcher.blob(WANTED).read_bytes() == TARGET
