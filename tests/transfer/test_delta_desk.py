"""Questions for deltas: where they cannot be sent, and what is taken for an answer."""

from __future__ import annotations

import pytest

from edge_agent.transfer.shortcut import SHARE_MAX, DeltaDesk, Shortcut
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


LIMIT_BYTES = int(SHARE_MAX * WANTED.size)


@pytest.mark.parametrize(
    ("base", "delta", "size_bytes", "taken"),
    [
        (BASE, DELTA, LIMIT_BYTES, True),
        (BASE, DELTA, LIMIT_BYTES + 1, False),  # not worth it, or the whole budget
        (BASE, DELTA, 0, False),
        (BASE, DELTA, -1, False),
        (digest_of(b"not ours"), DELTA, 1000, False),
        ("", DELTA, 1000, False),
        (BASE, "sha256:../../trusted.json", 1000, False),
        (BASE, "", 1000, False),
    ],
)
def test_an_offer_that_is_unsound_is_no_offer(
    base: str, delta: str, size_bytes: int, taken: bool
) -> None:
    """The blob comes whole then, and at once."""
    ready: list[list[Shortcut]] = []
    desk = DeltaDesk(lambda question: True, ready.append)
    desk.begin([(WANTED, [BASE])], 0.0)
    offer = DeltaOffer(digest=WANTED.digest, base=base, delta=delta, size_bytes=size_bytes)
    desk.offered(offer, 1.0)
    (found,) = ready
    assert [shortcut.delta.digest for shortcut in found] == [delta] * taken
    assert not desk.waiting
