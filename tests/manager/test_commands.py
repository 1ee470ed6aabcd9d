"""What a caller is told about an order of theirs is what happened."""

from __future__ import annotations

import threading

import pytest

from fleet.errors import FleetError
from tests.manager.conftest import FleetUnderTest


def test_an_order_that_timed_out_is_not_carried_out_later(fleet: FleetUnderTest) -> None:
    manager = fleet.start_manager()
    free, busy = threading.Event(), threading.Event()
    done: list[str] = []

    def hold() -> None:
        busy.set()
        free.wait(20.0)
        done.append("the one under way")

    holder = threading.Thread(target=lambda: manager.do(hold))
    holder.start()
    assert busy.wait(10.0)
    with pytest.raises(FleetError, match="will not be done"):
        manager.do(lambda: done.append("the one given up"), timeout_s=0.2)
    free.set()
    holder.join(20.0)
    manager.do(lambda: done.append("the next"))
    assert done == ["the one under way", "the next"]


def test_an_order_under_way_is_said_to_be(fleet: FleetUnderTest) -> None:
    manager = fleet.start_manager()
    free = threading.Event()
    with pytest.raises(FleetError, match="may still be done"):
        manager.do(lambda: free.wait(20.0), timeout_s=0.3)
    free.set()
    manager.do(lambda: None)
