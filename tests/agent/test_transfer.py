"""Blobs over a link that loses, repeats, lies and is cut."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import msgspec
import pytest

from edge_agent.errors import AgentError
from edge_agent.transfer.pace import START_BYTES, Pace
from edge_agent.transfer.partial import PartialBlob, require_space
from edge_agent.transfer.pull import BlobPuller
from edge_contract.digest import digest_of
from edge_contract.errors import TrustError
from edge_contract.manifest import WEIGHT, Descriptor
from edge_contract.messages import BlobAsk, BlobBlock

BLOCK_BYTES = 16 * 1024
"""What a puller that knows nothing of its link asks for."""


def blob(seed: int, size_bytes: int) -> tuple[bytes, Descriptor]:
    data = random.Random(seed).randbytes(size_bytes)
    return data, Descriptor(media_type=WEIGHT, digest=digest_of(data), size=size_bytes)


def blocks_of(data: bytes) -> list[bytes]:
    return [data[at : at + BLOCK_BYTES] for at in range(0, len(data), BLOCK_BYTES)]


def message(descriptor: Descriptor, index: int, data: bytes) -> BlobBlock:
    return BlobBlock(
        digest=descriptor.digest,
        offset_bytes=index * BLOCK_BYTES,
        size_bytes=descriptor.size,
        data=data,
    )


class Server:
    """Answers what a puller asks for, over a link that a test can harm."""

    def __init__(self, state_dir: Path, *blobs: bytes, pace: Pace | None = None) -> None:
        self.blobs = {digest_of(data): data for data in blobs}
        self.asked: list[BlobAsk] = []
        self.ended: list[str] = []
        self.online = True
        self.room_bytes = float("inf")
        self.puller = BlobPuller(
            state_dir, self.ask, self.ended.append, pace=pace, room_bytes=lambda: self.room_bytes
        )

    def ask(self, ask: BlobAsk) -> bool:
        if self.online:
            self.asked.append(ask)
        return self.online

    def wanted(self) -> list[tuple[str, int, int]]:
        """(digest, offset, block size) of what was asked for since the last call."""
        asks, self.asked = self.asked, []
        return [
            (ask.digest, index * ask.block_bytes, ask.block_bytes)
            for ask in asks
            for first, last in ask.missing
            for index in range(first, last + 1)
        ]

    def send(self, digest: str, offset: int, block_bytes: int, now_s: float) -> None:
        data = self.blobs[digest]
        part = data[offset : offset + block_bytes]
        block = BlobBlock(digest=digest, offset_bytes=offset, size_bytes=len(data), data=part)
        self.puller.block(block, now_s)


def test_lost_and_repeated_blocks_cost_time_but_nothing_else(tmp_path: Path) -> None:
    dice = random.Random(7)
    one, d1 = blob(1, 40 * BLOCK_BYTES + 17)
    two, d2 = blob(2, 100)
    server = Server(tmp_path, one, two)
    server.puller.want([d1, d2], 0.0)
    now_s = 0.0
    while not server.ended:
        for wanted in server.wanted():
            for _ in range(dice.choice([0, 1, 1, 2])):
                server.send(*wanted, now_s)
        now_s += 1.0
        server.puller.tick(now_s, online=True)
        assert now_s < 2000
    assert server.ended == [""]
    assert server.puller.blob(d1.digest).read_bytes() == one
    assert server.puller.blob(d2.digest).read_bytes() == two
    assert server.puller.progress.percent == 100.0
    assert not list((tmp_path / "incoming").iterdir())


def test_a_transfer_cut_off_goes_on_where_it_was(tmp_path: Path) -> None:
    data, descriptor = blob(1, 10 * BLOCK_BYTES)
    first = Server(tmp_path, data)
    first.puller.want([descriptor], 0.0)
    for wanted in first.wanted()[:3]:
        first.send(*wanted, 0.0)
    first.puller.cancel()
    second = Server(tmp_path, data)
    second.puller.want([descriptor], 0.0)
    assert [offset // BLOCK_BYTES for _, offset, _ in second.wanted()] == [3, 4, 5, 6]
    assert second.puller.progress.done_bytes == 3 * BLOCK_BYTES


def test_a_power_cut_before_the_map_is_written_costs_a_repeat_and_no_byte(tmp_path: Path) -> None:
    data, descriptor = blob(1, 4 * BLOCK_BYTES)
    cut = PartialBlob(tmp_path, descriptor.digest, descriptor.size)
    assert cut.write(0, blocks_of(data)[0]) == BLOCK_BYTES  # and then nothing: no map, no close
    again = PartialBlob(tmp_path, descriptor.digest, descriptor.size)
    assert again.next_missing(0) == 0
    assert again.received_bytes == 0


PARTLY_TRUE = b"[[-1,0],[9,99],[0,3]]"


@pytest.mark.parametrize("map_bytes", [b"", b"\xff", b"[[0,1]", b'{"a":1}', PARTLY_TRUE])
def test_a_damaged_map_never_claims_blocks_that_are_not_there(
    tmp_path: Path, map_bytes: bytes
) -> None:
    data, descriptor = blob(1, 3 * BLOCK_BYTES)
    part = PartialBlob(tmp_path, descriptor.digest, descriptor.size)
    part.write(0, blocks_of(data)[0])
    part.close()
    next(tmp_path.glob("*.map")).write_bytes(map_bytes)
    again = PartialBlob(tmp_path, descriptor.digest, descriptor.size)
    expected = BLOCK_BYTES if map_bytes == PARTLY_TRUE else 0
    assert again.received_bytes == expected


def test_hostile_blocks_are_ignored(tmp_path: Path) -> None:
    data, descriptor = blob(1, 2 * BLOCK_BYTES + 5)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    whole = blocks_of(data)
    other = Descriptor(media_type=WEIGHT, digest=digest_of(b"other"), size=5)
    for hostile in (
        message(other, 0, b"other"),
        message(descriptor, -1, whole[0]),
        message(descriptor, 3, whole[0]),
        message(descriptor, 2**48, whole[0]),
        msgspec.structs.replace(message(descriptor, 0, whole[0]), offset_bytes=1),
        message(descriptor, 0, whole[0] + b"x"),
        message(descriptor, 0, b""),
        message(descriptor, 2, whole[0]),
    ):
        server.puller.block(hostile, 0.0)
    assert server.puller.progress.done_bytes == 0
    assert (tmp_path / "incoming" / descriptor.digest[7:]).stat().st_size == len(data)
    for index, part in enumerate(whole):
        server.puller.block(message(descriptor, index, part), 0.0)
    assert server.ended == [""]


def test_wrong_bytes_are_found_at_the_end_and_forgotten(tmp_path: Path) -> None:
    data, descriptor = blob(1, 2 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    server.puller.block(message(descriptor, 0, bytes(BLOCK_BYTES)), 0.0)
    server.puller.block(message(descriptor, 1, blocks_of(data)[1]), 0.0)
    (reason,) = server.ended
    assert "tampered" in reason
    assert not server.puller.active
    assert not server.puller.blob(descriptor.digest).exists()
    assert not list((tmp_path / "incoming").iterdir())


def test_a_failed_blob_never_closes_a_file_of_somebody_else(tmp_path: Path) -> None:
    _, descriptor = blob(1, BLOCK_BYTES)
    part = PartialBlob(tmp_path, descriptor.digest, descriptor.size)
    part.write(0, bytes(BLOCK_BYTES))
    with pytest.raises(TrustError):
        part.finish(tmp_path / "whole")
    # The number of the closed file is free now, and this is who gets it.
    other = os.open(tmp_path / "other", os.O_RDWR | os.O_CREAT)
    part.close()
    os.write(other, b"still open")
    os.close(other)
    assert not list(tmp_path.glob("*.map"))


def test_no_space_is_said_before_a_byte_is_asked_for(tmp_path: Path) -> None:
    server = Server(tmp_path)
    huge = Descriptor(media_type=WEIGHT, digest=digest_of(b"x"), size=1 << 50)
    server.puller.want([huge], 0.0)
    (reason,) = server.ended
    assert "no space left" in reason
    assert not server.asked
    with pytest.raises(AgentError, match="MB free"):
        require_space(tmp_path, 1 << 50)


def test_a_disk_that_fills_up_ends_the_transfer_with_a_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, descriptor = blob(1, 3 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "pwrite", full)
    server.send(descriptor.digest, 0, BLOCK_BYTES, 0.0)
    assert len(server.ended) == 1
    assert "No space left" in server.ended[0]
    assert not server.puller.active


def test_offline_nothing_is_asked_and_after_it_only_what_is_missing(tmp_path: Path) -> None:
    data, descriptor = blob(1, 3 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    server.send(descriptor.digest, BLOCK_BYTES, BLOCK_BYTES, 0.0)
    server.wanted()
    server.online = False
    for second in range(60):
        server.puller.tick(float(second), online=False)
    assert not server.asked
    server.online = True
    server.puller.reconnected(60.0)
    (ask,) = server.asked
    assert not ask.more, "what the manager still has of the last connection is replaced"
    assert [offset // BLOCK_BYTES for _, offset, _ in server.wanted()] == [0, 2]


def test_several_blobs_come_at_once_and_each_only_once(tmp_path: Path) -> None:
    made = [blob(seed, 5_000) for seed in range(3)]
    server = Server(tmp_path, *(data for data, _ in made))
    server.puller.want([d for _, d in made] + [made[0][1]], 0.0)
    wanted = server.wanted()
    assert sorted(digest for digest, _, _ in wanted) == sorted(d.digest for _, d in made)
    for item in wanted:
        server.send(*item, 0.1)
    assert server.ended == [""]


def test_in_flight_is_at_most_two_seconds_of_what_the_link_carries(tmp_path: Path) -> None:
    data, descriptor = blob(1, 3_000_000)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    queue, now_s, largest = server.wanted(), 0.0, 0
    while queue and now_s < 60:
        digest, offset, size = queue.pop(0)
        now_s += min(size, len(data) - offset) / 32_000  # 256 kbit/s
        server.send(digest, offset, size, now_s)
        queue += server.wanted()
        if now_s > 10:
            largest = max(largest, server.puller.in_flight_bytes)
    assert server.puller.progress.done_bytes > 1_700_000, "and the link never runs dry"
    assert 32_000 < largest <= 2.2 * 32_000
    assert server.puller.progress.repeated_bytes == 0


def test_a_fast_link_gets_large_blocks_and_a_window_that_fills_it(tmp_path: Path) -> None:
    data, descriptor = blob(1, 8_000_000)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    queue = [(item, 0.02) for item in server.wanted()]  # 20 ms there and back, 20 MB/s
    link_s = 0.0
    sizes = []
    while queue and not server.ended:
        (digest, offset, size), ready_s = queue.pop(0)
        link_s = max(link_s, ready_s) + size / 20e6
        server.send(digest, offset, size, link_s)
        sizes.append(size)
        queue += [(item, link_s + 0.02) for item in server.wanted()]
    assert server.ended == [""]
    assert sizes[-1] == 64 * 1024
    assert link_s < 1.5, "the link alone takes 0.4 s; a window a round trip would take 2.5"


def test_the_owners_rate_is_kept(tmp_path: Path) -> None:
    data, descriptor = blob(1, 1_000_000)
    server = Server(tmp_path, data, pace=Pace(rate_max_bytes_s=50_000))
    server.puller.want([descriptor], 0.0)
    now_s = 0.0
    while now_s < 10:
        for item in server.wanted():
            server.send(*item, now_s)
        now_s += 0.25
        server.puller.tick(now_s, online=True)
    assert 400_000 <= server.puller.progress.received_bytes <= 10 * 50_000 + 2 * START_BYTES


def test_a_byte_budget_holds_blobs_back_and_says_so(tmp_path: Path) -> None:
    data, descriptor = blob(1, 200_000)
    server = Server(tmp_path, data)
    server.room_bytes = 40_000
    server.puller.want([descriptor], 0.0)
    for item in server.wanted():
        server.room_bytes -= item[2]
        server.send(*item, 0.1)
    server.puller.tick(1.0, online=True)
    assert not server.asked
    assert server.puller.progress.received_bytes <= 40_000
    assert server.puller.waits_for_budget
    server.room_bytes = 1e6
    server.puller.tick(2.0, online=True)
    assert server.asked
    assert not server.puller.waits_for_budget


def test_a_slow_link_saves_its_map_by_time(tmp_path: Path) -> None:
    data, descriptor = blob(1, 3 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    server.send(descriptor.digest, 0, BLOCK_BYTES, 1.0)
    server.puller.tick(11.0, online=True)
    # No close, no cancel: the power goes here.
    again = PartialBlob(tmp_path / "incoming", descriptor.digest, descriptor.size)
    assert again.next_missing(0) == BLOCK_BYTES


def test_cleaning_keeps_only_the_last_beginning(tmp_path: Path) -> None:
    old, d_old = blob(1, 3 * BLOCK_BYTES)
    new, d_new = blob(2, 3 * BLOCK_BYTES)
    server = Server(tmp_path, old, new)
    for stamp_s, descriptor in enumerate((d_old, d_new), start=1000):
        server.puller.want([descriptor], 0.0)
        server.send(descriptor.digest, 0, BLOCK_BYTES, 0.0)
        server.puller.cancel()
        os.utime(tmp_path / "incoming" / descriptor.digest[7:], (stamp_s, stamp_s))
        os.utime(tmp_path / "incoming" / f"{descriptor.digest[7:]}.map", (stamp_s, stamp_s))
    server.puller.blob(d_old.digest).write_bytes(old)
    server.puller.clean()
    left = {path.name for path in (tmp_path / "incoming").iterdir()}
    assert left == {d_new.digest[7:], f"{d_new.digest[7:]}.map"}
    assert not list(server.puller.blob_dir.iterdir())
