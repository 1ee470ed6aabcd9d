"""Peers that send nothing, too little, or the same for ever; and disks that forget."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from edge_agent.transfer import partial as partial_module
from edge_agent.transfer.partial import PartialBlob
from tests.agent.test_transfer import BLOCK_BYTES, Server, blob


def test_a_server_that_sends_the_same_block_for_ever_is_asked_for_the_others(
    tmp_path: Path,
) -> None:
    data, descriptor = blob(1, 4 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    server.wanted()
    for second in range(1, 60):
        server.send(descriptor.digest, 0, BLOCK_BYTES, float(second))
        server.puller.tick(float(second), online=True)
    assert {offset // BLOCK_BYTES for _, offset, _ in server.wanted()} >= {1, 2}


def test_a_server_that_sends_nothing_is_asked_less_and_less(tmp_path: Path) -> None:
    data, descriptor = blob(1, 4 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    server.asked.clear()
    for second in range(1, 24 * 3600):
        server.puller.tick(float(second), online=True)
    assert 24 * 3600 / 300 - 1 <= len(server.asked) < 300, "a day of questions costs bytes, too"
    # It answers again: from then on a loss is noticed as soon as ever.
    now_s = 24 * 3600.0
    server.send(*server.wanted()[0], now_s)
    server.puller.tick(now_s + 31.0, online=True)
    assert server.asked


def test_a_new_connection_is_asked_at_once_however_long_nothing_came(tmp_path: Path) -> None:
    data, descriptor = blob(1, BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    for second in range(1, 3600):
        server.puller.tick(float(second), online=True)
    server.asked.clear()
    server.puller.reconnected(3600.0)
    assert len(server.asked) == 1
    server.puller.tick(3604.0, online=True)
    assert len(server.asked) == 2


def test_blocks_that_are_shorter_than_asked_for_do_not_end_in_silence(tmp_path: Path) -> None:
    data, descriptor = blob(1, 4 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    now_s = 0.0
    while not server.ended and now_s < 600:
        for digest, offset, _ in server.wanted():
            server.send(digest, offset, 4096, now_s)
        now_s += 1.0
        server.puller.tick(now_s, online=True)
    assert server.ended == [""]


def test_a_block_that_is_longer_than_asked_for_answers_all_that_it_holds(tmp_path: Path) -> None:
    data, descriptor = blob(1, 8 * BLOCK_BYTES)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    before = server.puller.in_flight_bytes
    server.asked.clear()
    server.online = False
    server.send(descriptor.digest, 0, 4 * BLOCK_BYTES, 0.1)
    assert server.puller.in_flight_bytes == before - 4 * BLOCK_BYTES


def test_a_map_that_claims_what_the_disk_has_lost_costs_one_blob_and_not_the_update(
    tmp_path: Path,
) -> None:
    data, descriptor = blob(1, 4 * BLOCK_BYTES)
    incoming = tmp_path / "incoming"
    part = PartialBlob(incoming, descriptor.digest, descriptor.size)
    part.write(0, data[: 3 * BLOCK_BYTES])
    part.close()
    with (incoming / descriptor.digest[7:]).open("r+b") as file:
        file.write(bytes(BLOCK_BYTES))  # what a file system check may leave
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    now_s = 0.0
    while not server.ended and now_s < 60:
        for item in server.wanted():
            server.send(*item, now_s)
        now_s += 1.0
        server.puller.tick(now_s, online=True)
    assert server.ended == [""]
    assert server.puller.blob(descriptor.digest).read_bytes() == data
    assert server.puller.progress.done_bytes == len(data)


def test_wrong_bytes_after_a_resumption_are_refused_the_second_time(tmp_path: Path) -> None:
    data, descriptor = blob(1, 2 * BLOCK_BYTES)
    incoming = tmp_path / "incoming"
    part = PartialBlob(incoming, descriptor.digest, descriptor.size)
    part.write(0, bytes(BLOCK_BYTES))
    part.close()
    server = Server(tmp_path, data)
    server.blobs[descriptor.digest] = bytes(len(data))  # the server itself is wrong
    server.puller.want([descriptor], 0.0)
    now_s = 0.0
    while not server.ended and now_s < 60:
        for item in server.wanted():
            server.send(*item, now_s)
        now_s += 1.0
        server.puller.tick(now_s, online=True)
    assert len(server.ended) == 1
    assert "tampered" in server.ended[0]
    assert now_s < 30


def test_what_is_on_the_disk_already_needs_no_room_a_second_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, descriptor = blob(1, 40 * BLOCK_BYTES)
    part = PartialBlob(tmp_path / "incoming", descriptor.digest, descriptor.size)
    part.write(0, data[: 30 * BLOCK_BYTES])
    part.close()
    room = 10 * BLOCK_BYTES + (8 << 20)  # for what is missing, and the headroom

    def statvfs(path: object) -> os.statvfs_result:
        return os.statvfs_result((1, 1, room, room, room, 0, 0, 0, 0, 255))

    monkeypatch.setattr(partial_module.os, "statvfs", statvfs)
    server = Server(tmp_path, data)
    server.puller.want([descriptor], 0.0)
    assert server.ended == []
    assert server.asked


def test_a_fast_link_that_is_cut_again_and_again_costs_an_eighth(tmp_path: Path) -> None:
    """20 MB/s over a path of 100 ms and more: two megabytes would be under way."""
    data, descriptor = blob(1, 20_000_000)
    server = Server(tmp_path, data)
    dice = random.Random(1)
    cuts = sorted(dice.randrange(len(data)) for _ in range(20))
    server.puller.want([descriptor], 0.0)
    queue = [(item, 0.1) for item in server.wanted()]
    sent_bytes, link_s = 0, 0.0
    while not server.ended:
        (digest, offset, size), ready_s = queue.pop(0)
        link_s = max(link_s, ready_s) + size / 20e6
        server.send(digest, offset, size, link_s)
        sent_bytes += size
        if cuts and server.puller.progress.done_bytes >= cuts[0]:
            cuts.pop(0)
            sent_bytes += sum(size for (_, _, size), _ in queue)  # on its way, to nobody
            queue.clear()
            server.wanted()
            server.puller.reconnected(link_s)
        queue += [(item, link_s + 0.1) for item in server.wanted()]
    assert server.ended == [""]
    assert sent_bytes <= 1.2 * len(data)


def test_cleaning_keeps_what_was_begun_last_whatever_the_clock_said(tmp_path: Path) -> None:
    old, d_old = blob(1, 3 * BLOCK_BYTES)
    new, d_new = blob(2, 3 * BLOCK_BYTES)
    server = Server(tmp_path, old, new)
    for descriptor in (d_old, d_new):
        server.puller.want([descriptor], 0.0)
        server.send(descriptor.digest, 0, BLOCK_BYTES, 0.0)
        server.puller.cancel()
    jumped_s = 2**31 - 1  # the clock was at 2038 for a moment
    os.utime(tmp_path / "incoming" / d_old.digest[7:], (jumped_s, jumped_s))
    server.puller.clean()
    left = {path.stem for path in (tmp_path / "incoming").iterdir()}
    assert left == {d_new.digest[7:]}
