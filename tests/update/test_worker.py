"""The worker beside the loop: one piece that breaks does not end those after it."""

from __future__ import annotations

import queue
import threading

import pytest

from edge_agent.update.events import Event, SelfTestPassed
from edge_agent.update.worker import PIECE_MAX_S, Worker


def test_a_piece_that_hangs_starves_the_watchdog_and_no_other_does() -> None:
    now_s = [0.0]
    posted: queue.Queue[Event] = queue.Queue()
    hangs, begun = threading.Event(), threading.Event()
    worker = Worker(posted.put, lambda: now_s[0])

    def hang() -> Event:
        begun.set()
        hangs.wait(10)
        return SelfTestPassed(1)

    assert worker.turns != worker.turns, "at rest it moves"
    worker.start(hang)
    assert begun.wait(10)
    now_s[0] = PIECE_MAX_S
    assert worker.turns != worker.turns, "a large version on a slow card"
    now_s[0] += 1
    assert worker.stuck
    assert worker.turns == worker.turns
    hangs.set()
    assert posted.get(timeout=10) == SelfTestPassed(1)
    worker.stop()
    assert worker.turns != worker.turns


def test_what_nobody_foresaw_ends_one_piece_of_work_and_is_logged(
    caplog: pytest.LogCaptureFixture,
) -> None:
    posted: queue.Queue[Event] = queue.Queue()
    worker = Worker(posted.put)

    def breaks() -> Event | None:
        raise ValueError("embedded null byte")

    worker.start(breaks)
    worker.start(lambda: SelfTestPassed(7))
    assert posted.get(timeout=10) == SelfTestPassed(7)
    worker.stop()
    assert "embedded null byte" in caplog.text
