"""Questions for deltas where they cannot be sent."""

from __future__ import annotations

from edge_agent.transfer.shortcut import DeltaDesk, Shortcut
from edge_contract.digest import digest_of
from edge_contract.manifest import WEIGHT, Descriptor
from edge_contract.messages import DeltaAsk, DeltaOffer

BASE, DELTA = digest_of(b"base"), digest_of(b"delta")
WANTED = Descriptor(media_type=WEIGHT, digest=digest_of(b"wanted"), size=1_000_000)


def test_a_budget_that_is_used_up_does_not_turn_a_delta_into_the_whole_blob() -> None:
    allowed = [False]
    asked: list[DeltaAsk] = []
    ready: list[list[Shortcut]] = []

    def ask(question: DeltaAsk) -> bool:
        if allowed[0]:
            asked.append(question)
        return allowed[0]

    desk = DeltaDesk(ask, ready.append)
    desk.begin([(WANTED, [BASE])], 0.0)
    for second in range(1, 24 * 3600, 60):
        desk.tick(float(second), online=True)
    assert (asked, ready) == ([], [])
    allowed[0] = True  # the next day
    desk.tick(24 * 3600.0, online=True)
    assert len(asked) == 1
    offer = DeltaOffer(digest=WANTED.digest, base=BASE, delta=DELTA, size_bytes=1000)
    desk.offered(offer, 24 * 3600.0 + 1)
    ((shortcut,),) = ready
    assert shortcut.delta.digest == DELTA
