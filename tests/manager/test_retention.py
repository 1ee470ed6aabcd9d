"""Old records go, a few at a time; that they were received stays known for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import select

from edge_contract.intervals import Overlap
from fleet.manager.retention import DAY_S, Retention
from fleet.store import Store, open_store
from fleet.store.records import committed_counts
from fleet.store.schema import records
from fleet.telemetry.ledger import Ledger
from tests.manager.test_ledger import record

KEPT_S = 90 * DAY_S
HOUR_S = 3_600.0


class HandClock:
    def __init__(self) -> None:
        self.now_s = 1_000 * DAY_S
        self.ahead_s = 0.0

    def wall_s(self) -> float:
        return self.now_s + self.ahead_s

    def monotonic_s(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "fleet.db", fleet="home")


def steady(store: Store, clock: HandClock) -> Retention:
    """Of a manager that was started an hour ago."""
    found = Retention(store, clock, KEPT_S)
    clock.now_s += HOUR_S
    return found


def take_in(store: Store, clock: HandClock, *ranges: tuple[int, int]) -> list[Overlap]:
    """Records received now, by a manager that has just been started."""
    with store.write() as tx:
        page = Ledger().open(tx, clock.now_s)
        found = [
            page.take_in(record("cam-1", "b", *here, received_at_s=clock.now_s)) for here in ranges
        ]
        page.write()
    page.committed()
    return found


def kept(store: Store) -> list[int]:
    with store.read() as tx:
        return list(tx.scalars(select(records.c.seq).order_by(records.c.seq)))


def test_a_late_copy_of_a_record_that_is_gone_is_a_repeat(store: Store, clock: HandClock) -> None:
    take_in(store, clock, (1, 1), (2, 4), (5, 5))
    clock.now_s += 60 * DAY_S
    take_in(store, clock, (6, 6))
    clock.now_s += 31 * DAY_S
    assert steady(store, clock).tick() == 3
    assert kept(store) == [6]
    assert take_in(store, clock, (1, 1), (2, 4), (4, 7)) == [
        *(Overlap.CONTAINED, Overlap.CONTAINED, Overlap.PARTIAL)
    ]
    assert take_in(store, clock, (7, 7)) == [Overlap.DISJOINT]
    assert kept(store) == [6, 7]
    with store.read() as tx:
        assert committed_counts(tx, "cam-1") == {"telemetry": 7}


def test_old_records_go_a_batch_at_a_time(
    store: Store, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.manager.retention._BATCH", 2)
    take_in(store, clock, *((number, number) for number in range(1, 6)))
    clock.now_s += KEPT_S + 1
    retention = steady(store, clock)
    assert [retention.tick() for _ in range(4)] == [2, 2, 1, 0]


def test_what_was_held_back_for_long_is_kept_from_its_receipt(
    store: Store, clock: HandClock
) -> None:
    take_in(store, clock, (1, 1))  # its device says that it is 1970
    clock.now_s += KEPT_S - HOUR_S - 1
    assert steady(store, clock).tick() == 0
    assert kept(store) == [1]


def test_records_are_kept_for_ever_where_that_is_asked_for(store: Store, clock: HandClock) -> None:
    take_in(store, clock, (1, 1))
    clock.now_s *= 100
    assert Retention(store, clock, 0.0).tick() == 0
    assert kept(store) == [1]


def test_a_clock_that_jumps_ahead_or_starts_in_the_future_drops_nothing_at_once(
    store: Store, clock: HandClock
) -> None:
    take_in(store, clock, (1, 1))
    retention = steady(store, clock)
    clock.ahead_s = 12 * 365 * DAY_S
    assert retention.tick() == 0
    clock.now_s += HOUR_S / 2
    assert retention.tick() == 0
    clock.ahead_s = 0.0
    clock.now_s += HOUR_S / 2 + 1
    assert retention.tick() == 0, "set right in time"
    clock.ahead_s = 12 * 365 * DAY_S
    started = Retention(store, clock, KEPT_S)
    assert started.tick() == 0
    clock.now_s += HOUR_S
    assert started.tick() == 1, "an hour without a correction is believed"
