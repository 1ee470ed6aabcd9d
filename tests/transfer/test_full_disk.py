"""A disk that fills up under a pull: the update waits, says so, and goes on when there is room."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from edge_agent.transfer.fetch import FULL_REST_S, BundleFetcher, Network
from edge_agent.transfer.pace import Pace
from edge_agent.trust.approved import ApprovedTarget
from edge_agent.update.events import Event, FetchFailed, FetchWaits, Ordered
from edge_agent.update.order import Order
from edge_agent.update.state import Stage
from edge_contract.messages import BlobAsk, BlobBlock
from tests.agent.test_transfer import BLOCK_BYTES, blob
from tests.transfer.test_block_sources import Aside, no_delta
from tests.update.bundles import make_version
from tests.update.device import Clock, Device


class Fetching:
    """A fetcher that pulls one blob of four blocks, over a clock that the test moves."""

    def __init__(self, state_dir: Path) -> None:
        self.data, self.wanted = blob(1, 4 * BLOCK_BYTES)
        self.asked: list[BlobAsk] = []
        self.left: list[str] = []
        self.posted: list[Event] = []
        self.now_s = 0.0
        target = ApprovedTarget("1.0.0", self.wanted.digest, self.wanted.size)
        self.fetcher = BundleFetcher(
            state_dir,
            Network(
                ask=lambda ask: not self.asked.append(ask),  # type: ignore[func-returns-value]
                ask_delta=no_delta,
                held=list,
                aside=Aside(),
                post=lambda event: event.go(),
                pace=Pace(),
                elsewhere=lambda reason: bool(self.left.append(reason)),  # type: ignore[func-returns-value]
            ),
            approved=lambda version, digest: target,
            in_slot=lambda digest: None,
            line="digits",
            hardware="generic-x86-64",
            post=self.posted.append,
            monotonic_s=lambda: self.now_s,
        )
        order = Order(epoch=1, seq=1, digest=target.digest, line="digits", version="1.0.0")
        self.fetcher.start_fetch(7, order)

    def send(self, index: int) -> None:
        data = self.data[index * BLOCK_BYTES : (index + 1) * BLOCK_BYTES]
        block = BlobBlock(
            digest=self.wanted.digest,
            offset_bytes=index * BLOCK_BYTES,
            size_bytes=len(self.data),
            data=data,
        )
        self.fetcher.block(block, self.now_s)

    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        self.fetcher.tick(self.now_s, online=True)


def full(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_fills_up_in_mid_pull_is_waited_for_and_nothing_comes_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    update = Fetching(tmp_path)
    update.send(0)
    with monkeypatch.context() as disk:
        disk.setattr(os, "pwrite", full)
        update.send(1)
        (waits,) = update.posted
        assert isinstance(waits, FetchWaits)
        assert (waits.ticket, "No space left" in waits.reason) == (7, True)
        assert update.left == [], "the web server is not to blame"
        update.asked.clear()
        update.wait(FULL_REST_S - 1)
        assert update.asked == []
        update.wait(1)
        update.send(1)  # asked for again, and the disk is still full
    assert [type(event) for event in update.posted] == [FetchWaits] * 3
    update.asked.clear()
    update.wait(2 * FULL_REST_S)
    assert cast(FetchWaits, update.posted[-1]).reason == "", "it goes on"
    assert [ask.missing for ask in update.asked] == [[(1, 3)]], "what came is not asked for again"
    for index in (1, 2, 3):
        update.send(index)
    assert update.fetcher.blob(update.wanted.digest).read_bytes() == update.data


def test_no_room_for_a_blob_is_waited_for_before_a_byte_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free_bytes = [0]

    def statvfs(path: object) -> os.statvfs_result:
        return os.statvfs_result((1, 1, *(free_bytes[0],) * 3, 0, 0, 0, 0, 255))

    monkeypatch.setattr(os, "statvfs", statvfs)
    update = Fetching(tmp_path)
    assert update.asked == []
    assert "MB needed" in cast(FetchWaits, update.posted[0]).reason
    free_bytes[0] = 1 << 30
    update.wait(FULL_REST_S)
    assert len(update.asked) == 1


def test_an_order_that_is_given_up_waits_for_no_room(tmp_path: Path) -> None:
    update = Fetching(tmp_path)
    pause: Callable[[str], None] = update.fetcher._wait_for_room
    pause("No space left on device")
    update.fetcher.cancel()
    update.asked.clear()
    update.wait(10_000)
    assert update.asked == []


def test_a_wrong_blob_still_fails_the_order(tmp_path: Path) -> None:
    update = Fetching(tmp_path)
    update.data = bytes(len(update.data))
    for index in range(4):
        update.send(index)
    assert isinstance(update.posted[-1], FetchFailed)


def test_the_update_says_what_it_waits_for_and_only_while_it_fetches(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path, {}, Clock())
    device.manager.start("clean")
    order = Order(epoch=1, seq=1, digest="sha256:" + "a" * 64, line="digits", version="1.0.0")
    device.manager.handle(Ordered(order))
    while device.manager.state.stage is not Stage.FETCHING:
        assert device.pump()
    ticket = device.manager.state.ticket
    device.manager.handle(FetchWaits(ticket, "no space left"))
    assert device.manager.status()["waits_for"] == "no space left"
    device.manager.handle(FetchWaits(ticket - 1, "somebody else's"))
    assert device.manager.waits_for == "no space left"
    device.manager.handle(FetchFailed(ticket, "gone"))
    assert device.manager.waits_for == ""


def test_no_room_is_waited_for_until_the_order_s_deadline_and_the_fleet_hears_why(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path, {}, Clock())
    device.manager.start("clean")
    due_ts = device.clock.wall_s() + 3600
    order = make_version("1.0.0").order(1, deadline_ts=due_ts)
    device.manager.handle(Ordered(order))
    while device.manager.state.stage is not Stage.FETCHING:
        assert device.pump()
    device.manager.handle(FetchWaits(device.manager.state.ticket, "no space left"))
    for late_s in (-1, 0):
        assert device.phases(1)[-1] == "downloading"
        device.manager.tick(device.clock.now_s, due_ts + late_s)
    assert device.phases(1)[-1] == "failed"
    assert "deadline passed" in device.reason(1)
    assert "it waited: no space left" in device.reason(1)
