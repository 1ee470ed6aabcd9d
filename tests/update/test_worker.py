"""The worker beside the loop: one piece that breaks does not end those after it."""

from __future__ import annotations

import queue

import pytest

from edge_agent.update.events import Event, SelfTestPassed
from edge_agent.update.worker import Worker


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
