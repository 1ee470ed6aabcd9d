"""The order of blocks: everything asked for once, nobody starved, nobody above its rate."""

from __future__ import annotations

import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_contract.errors import ContractError
from edge_contract.messages import BlobAsk
from fleet.transfer.fair_queue import BLOCK_BYTES_MAX, Block, FairQueue, Want, check_ask
from fleet.transfer.total_rate import TotalRate

BLOCK = 4096
A, B = ("sha256:" + letter * 64 for letter in "ab")


def queue(rate_bytes_s: float = 1e12, burst_bytes: float = 1e12) -> FairQueue:
    return FairQueue(rate_bytes_s=rate_bytes_s, burst_bytes=burst_bytes)


def want(digest: str = A, *ranges: tuple[int, int], size_bytes: int = 1000 * BLOCK) -> Want:
    return Want(digest, size_bytes, BLOCK, list(ranges))


def drain(fair: FairQueue, now_s: float = 0.0) -> list[Block]:
    blocks = []
    while (block := fair.next(now_s)) is not None:
        blocks.append(block)
    return blocks


def test_devices_take_turns_whatever_they_ask_for() -> None:
    fair = queue()
    fair.ask("greedy", want(A, (0, 99)), 0.0)
    fair.ask("modest", want(A, (0, 2)), 0.0)
    first = [block.device for block in drain(fair)[:6]]
    assert Counter(first) == {"greedy": 3, "modest": 3}


def test_a_repeated_question_is_served_once() -> None:
    fair = queue()
    fair.ask("cam", want(A, (0, 9)), 0.0)
    assert [fair.next(0.0).index for _ in range(3)] == [0, 1, 2]  # type: ignore[union-attr]
    fair.ask("cam", want(A, (3, 9)), 0.0)
    assert [block.index for block in drain(fair)] == [3, 4, 5, 6, 7, 8, 9]


def test_no_device_gets_more_than_its_rate() -> None:
    fair = queue(rate_bytes_s=10 * BLOCK, burst_bytes=BLOCK_BYTES_MAX)
    fair.ask("cam", want(A, (0, 999)), 0.0)
    assert len(drain(fair, 0.0)) == BLOCK_BYTES_MAX // BLOCK
    assert len(drain(fair, 1.0)) == 10
    assert drain(fair, 1.0) == []
    # Asking in small pieces is no way around it.
    fair.ask("cam", want(A, (0, 0)), 1.0)
    assert drain(fair, 1.0) == []


def test_a_device_at_its_limit_does_not_hold_up_the_others() -> None:
    fair = queue(rate_bytes_s=1.0, burst_bytes=BLOCK_BYTES_MAX)
    fair.ask("spent", want(A, (0, 999)), 0.0)
    drain(fair)
    fair.ask("fresh", want(B, (0, 3)), 0.0)
    assert [block.device for block in drain(fair)] == ["fresh"] * 4


def test_who_is_gone_is_forgotten() -> None:
    fair = queue()
    fair.ask("a", want(A, (0, 9)), 0.0)
    fair.ask("b", want(A, (0, 1)), 0.0)
    fair.forget("a")
    assert [block.device for block in drain(fair)] == ["b", "b"]
    fair.ask("a", want(A, (0, 9)), 0.0)
    fair.clear()
    assert not fair


@given(
    st.dictionaries(
        st.sampled_from(["a", "b", "c"]),
        st.dictionaries(st.sampled_from([A, B]), st.sets(st.integers(0, 40), min_size=1)),
    )
)
def test_every_block_asked_for_is_sent_exactly_once(asked: dict[str, dict[str, set[int]]]) -> None:
    fair = queue()
    for device, wants in asked.items():
        for digest, indices in wants.items():
            fair.ask(device, want(digest, *((i, i) for i in sorted(indices))), 0.0)
    sent = Counter((b.device, b.digest, b.index) for b in drain(fair))
    expected = {(d, g, i) for d, wants in asked.items() for g, ids in wants.items() for i in ids}
    assert sent == dict.fromkeys(expected, 1)


@given(st.integers(0, 300_000), st.integers(BLOCK, BLOCK_BYTES_MAX))
def test_the_blocks_of_a_blob_are_the_blob(size_bytes: int, block_bytes: int) -> None:
    last = max(0, -(-size_bytes // block_bytes) - 1)
    asked = check_ask(BlobAsk(digest=A, block_bytes=block_bytes, missing=[(0, last)]), size_bytes)
    fair = queue()
    fair.ask("cam", asked, 0.0)
    blocks = drain(fair)
    assert [block.offset_bytes for block in blocks] == [i * block_bytes for i in range(last + 1)]
    assert sum(block.length_bytes for block in blocks) == size_bytes


@pytest.mark.parametrize(
    "ask",
    [
        BlobAsk(digest="x", block_bytes=BLOCK, missing=[(0, 0)]),
        BlobAsk(digest=A, block_bytes=BLOCK - 1, missing=[(0, 0)]),
        BlobAsk(digest=A, block_bytes=BLOCK_BYTES_MAX + 1, missing=[(0, 0)]),
        BlobAsk(digest=A, block_bytes=BLOCK, missing=[(-1, 0)]),
        BlobAsk(digest=A, block_bytes=BLOCK, missing=[(1, 0)]),
        BlobAsk(digest=A, block_bytes=BLOCK, missing=[(0, 10)]),
        BlobAsk(digest=A, block_bytes=BLOCK, missing=[(2, 3), (3, 4)]),
        BlobAsk(digest=A, block_bytes=BLOCK, missing=[(i, i) for i in range(5000)]),
    ],
)
def test_a_question_outside_the_blob_is_refused(ask: BlobAsk) -> None:
    with pytest.raises(ContractError):
        check_ask(ask, 10 * BLOCK)


def shared_queue(*devices: str) -> FairQueue:
    fair = queue()
    for device in devices:
        fair.ask(device, Want(A, 1000 * BLOCK, BLOCK, [(0, 3)], listening=True), 0.0)
    return fair


def test_what_a_wave_waits_for_goes_out_once() -> None:
    fair = shared_queue("a", "b", "c", "d")
    blocks = drain(fair)
    assert [(block.device, block.index, block.shared_count) for block in blocks] == [
        ("", index, 4) for index in range(4)
    ]
    assert not fair


def test_what_one_device_of_many_lacks_is_sent_to_it_alone() -> None:
    fair = shared_queue("a", "b", "c", "d")
    fair.ask("late", Want(A, 1000 * BLOCK, BLOCK, [(9, 9)], listening=True), 0.0)
    fair.ask("deaf", want(A, (0, 0)), 0.0)
    alone = {(block.device, block.index) for block in drain(fair) if block.device}
    assert alone == {("late", 9), ("deaf", 0)}


def test_two_devices_are_not_a_wave() -> None:
    assert {block.device for block in drain(shared_queue("a", "b"))} == {"a", "b"}


def test_asking_for_more_adds_to_what_waits() -> None:
    fair = queue()
    fair.ask("cam", want(A, (0, 3)), 0.0)
    fair.ask("cam", Want(A, 1000 * BLOCK, 2 * BLOCK, [(2, 3)], more=True), 0.0)
    offsets = [(block.offset_bytes, block.length_bytes) for block in drain(fair)]
    assert offsets == [(i * BLOCK, BLOCK) for i in range(4)] + [
        (i * 2 * BLOCK, 2 * BLOCK) for i in (2, 3)
    ]


def test_all_devices_together_keep_to_the_limit() -> None:
    total = TotalRate(1e6, 4 * BLOCK_BYTES_MAX)
    fair = FairQueue(rate_bytes_s=1e12, burst_bytes=4 * BLOCK_BYTES_MAX, total=total)
    for device in "abcdef":
        fair.ask(device, want(A, (0, 999)), 0.0)
    drain(fair, 0.0)
    sent = 0
    for tick in range(1, 101):
        sent += sum(block.length_bytes for block in drain(fair, tick / 10))
    assert 0.8e6 <= sent / 10 <= 1.1e6


def test_two_transports_share_the_limit_and_neither_starves() -> None:
    """One takes 64 KB at a time and is always there; the other has small blocks."""
    total = TotalRate(1e6, 4 * BLOCK_BYTES_MAX)
    fair = FairQueue(rate_bytes_s=1e12, burst_bytes=4 * BLOCK_BYTES_MAX, total=total)
    fair.ask("a", want(A, (0, 9999), size_bytes=10_000 * BLOCK), 0.0)
    due_s, here, there = 0.0, 0, 0
    for tick in range(10_000):
        now_s = tick / 1000
        here += sum(block.length_bytes for block in drain(fair, now_s))
        while due_s <= now_s:
            due_s = now_s + total.take(BLOCK_BYTES_MAX, now_s)
            there += BLOCK_BYTES_MAX
    assert 0.9e6 <= (here + there) / 10 <= 1.1e6
    assert 0.7 <= here / there <= 1.4


def test_what_is_on_its_way_to_all_is_not_sent_again() -> None:
    fair = shared_queue("a", "b", "c")
    assert len(drain(fair, 1.0)) == 4
    late = Want(A, 1000 * BLOCK, BLOCK, [(0, 5)], more=True, listening=True)
    fair.ask("a", late, 2.0)
    assert [block.index for block in drain(fair, 2.0)] == [4, 5]
    # Lost after all: the device asks anew.
    fair.ask("a", Want(A, 1000 * BLOCK, BLOCK, [(0, 5)], listening=True), 5.0)
    assert [block.index for block in drain(fair, 5.0)] == [0, 1, 2, 3, 4, 5]


def indexes(wanted: Want) -> set[int]:
    return {index for first, last in wanted.ranges for index in range(first, last + 1)}


@given(st.sets(st.integers(0, 60)), st.sets(st.integers(-3, 63)))
def test_dropping_one_by_one_or_all_at_once_leaves_the_same(
    asked: set[int], gone: set[int]
) -> None:
    one_by_one, at_once = (want(A, *((index, index) for index in sorted(asked))) for _ in range(2))
    at_once.ranges = [(0, 60)] if asked == set(range(61)) else at_once.ranges
    for index in gone:
        assert one_by_one.holds(index) == (index in asked)
        one_by_one.drop(index)
    at_once.drop_all(gone)
    assert indexes(one_by_one) == indexes(at_once) == asked - gone
    assert all(first <= last for first, last in at_once.ranges)


def test_a_flood_of_questions_for_a_huge_blob_costs_the_others_nothing() -> None:
    fair = queue()
    blocks_count = 1 << 19  # two gigabytes
    huge = {"size_bytes": blocks_count * BLOCK, "more": True, "listening": True}
    for name in ("a", "b", "c"):
        fair.ask(name, Want(A, block_bytes=BLOCK, ranges=[(0, 9)], **huge), 0.0)
    assert drain(fair)[0].shared_count == 3
    began_s = time.perf_counter()
    for _ in range(100):
        fair.ask("rogue", Want(A, block_bytes=BLOCK, ranges=[(0, blocks_count - 1)], **huge), 0.1)
    split = [(index, index) for index in range(0, 8192, 2)]
    for _ in range(100):
        fair.ask("rogue", Want(A, block_bytes=BLOCK, ranges=list(split), **huge), 0.1)
    assert time.perf_counter() - began_s < 1.0


def test_what_was_sent_to_all_is_remembered_no_longer_than_it_takes() -> None:
    fair = queue(rate_bytes_s=10 * BLOCK, burst_bytes=BLOCK_BYTES_MAX)
    for name in ("a", "b", "c"):
        fair.ask(name, Want(A, 1000 * BLOCK, BLOCK, [(0, 999)], listening=True), 0.0)
    for second in range(60):
        assert drain(fair, float(second))
    assert len(fair._shared_at_s[A]) <= 10 * 4
