"""Old records go, a few at a time; that they were received stays known for ever."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace
from sqlalchemy import select

from edge_contract.health import HealthSpec
from edge_contract.intervals import Overlap
from fleet.manager.retention import DAY_S, Retention
from fleet.rollout import Candidate, make_plan, new_rollout
from fleet.rollout.state import Status
from fleet.store import Store, devices, journal, open_store, orders, rollouts
from fleet.store.devices import DeviceRow
from fleet.store.orders import OrderRow
from fleet.store.records import committed_counts
from fleet.store.rollouts import RolloutRow
from fleet.store.schema import audit, log, records
from fleet.store.schema import orders as order_table
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


def test_old_lines_of_the_log_go_and_the_audit_stays(store: Store, clock: HandClock) -> None:
    with store.write() as tx:
        journal.add_log(tx, clock.now_s, "device", "cam-1", "old")
        journal.add_log(tx, clock.now_s + KEPT_S, "device", "cam-1", "new")
        journal.add_audit(tx, clock.now_s, "ann", "revoke", "cam-1", "stolen", "done")
    clock.now_s += KEPT_S + 1
    assert steady(store, clock).tick() == 1
    with store.read() as tx:
        assert list(tx.scalars(select(log.c.text))) == ["new"]
        assert len(list(tx.execute(select(audit)))) == 1


def rollout(store: Store, name: str, status: Status, now_s: float) -> None:
    plan = make_plan(
        *(name, "digits", "1.0.0", "sha256:" + "a" * 64),
        [Candidate("cam-1", "pi4", "digits")],
        hardware=["pi4"],
    )
    state = replace(new_rollout(plan), status=status)
    with store.write() as tx:
        rollouts.add_rollout(
            tx,
            RolloutRow(
                id=name,
                state=state,
                health=HealthSpec(),
                created_at_s=now_s,
                created_by="ann",
                updated_at_s=now_s,
            ),
        )


def test_superseded_orders_go_unless_a_rollout_may_still_hear_of_them(
    store: Store, clock: HandClock
) -> None:
    now_s = clock.now_s
    for name, status in (
        ("over", Status.COMPLETED),
        ("stuck", Status.PAUSED),  # newer ones of its line followed
        ("newest", Status.ABORTED),
    ):
        rollout(store, name, status, now_s)
    named = ["over", "over", "stuck", "newest", "removed", "over", "over"]
    with store.write() as tx:
        for device in ("cam-1", "cam-2"):
            row = DeviceRow(
                device=device,
                public_key="00" * 32,
                hardware="pi4",
                line="digits",
                agent_version="1",
                enrolled_at_s=now_s,
                last_seen_at_s=now_s,
                desired_epoch=1,
                desired_seq=len(named),
            )
            devices.add_device(tx, row)
        for seq, name in enumerate(named, 1):
            order = OrderRow(
                device="cam-1",
                seq=seq,
                epoch=1,
                rollout=name,
                line="digits",
                version="1.0.0",
                digest="",
                envelope=b"signed",
                issued_at_s=now_s + (KEPT_S if seq == 6 else 0.0),
                expires_at_s=now_s,
            )
            orders.add_order(tx, order)
        orders.add_order(tx, replace(order, device="cam-2"))
    clock.now_s += KEPT_S + 1
    assert steady(store, clock).tick() == 3
    with store.read() as tx:
        left = tx.execute(select(order_table.c.device, order_table.c.seq)).all()
        assert orders.current_order(tx, "cam-2") is not None
    assert sorted(left) == [*(("cam-1", 3), ("cam-1", 4), ("cam-1", 6), ("cam-1", 7), ("cam-2", 7))]
