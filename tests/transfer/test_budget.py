"""A metered link's day: what is spent stays spent, whatever happens to clocks, power and disk."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.transfer.budget import RESERVE_BYTES, SHARES, ByteBudget, message_bytes

MB = 1_000_000
HOUR_S = 3600.0


class Kernel:
    """A clock that counts from a boot, and the boot's id."""

    def __init__(self) -> None:
        self.now_s = 100.0
        self.boot_id = "boot-1"

    def reboot(self) -> None:
        self.now_s, self.boot_id = 5.0, self.boot_id + "x"

    def budget(self, path: Path, limit_bytes: int = MB) -> ByteBudget:
        return ByteBudget(path, limit_bytes, lambda: self.now_s, self.boot_id)


def test_classes_stop_in_the_order_of_their_urgency(tmp_path: Path) -> None:
    budget = Kernel().budget(tmp_path / "count")
    stopped: list[str] = []
    for _ in range(100):
        budget.spend(MB // 100)
        stopped += [
            cls for cls in (*SHARES, "state") if cls not in stopped and not budget.allows(cls)
        ]
    assert stopped[0] == "blob"
    assert stopped[-1] == "status"
    assert "state" not in stopped, "what keeps a device known always passes"
    assert budget.status()["waiting"] == sorted(SHARES)
    assert budget.blob_room_bytes() == 0


def test_a_restart_refills_nothing(tmp_path: Path) -> None:
    kernel = Kernel()
    first = kernel.budget(tmp_path / "count")
    first.spend(600_000)
    first.close()
    again = kernel.budget(tmp_path / "count")
    assert again.spent_bytes == 600_000


def test_a_power_cut_never_gives_bytes_back(tmp_path: Path) -> None:
    kernel = Kernel()
    first = kernel.budget(tmp_path / "count")
    for _ in range(100):
        first.spend(1000)
    kernel.reboot()  # no close
    again = kernel.budget(tmp_path / "count")
    assert 100_000 <= again.spent_bytes <= 100_000 + RESERVE_BYTES


def test_a_day_of_running_time_refills_and_a_day_without_power_does_not(tmp_path: Path) -> None:
    kernel = Kernel()
    budget = kernel.budget(tmp_path / "count")
    budget.spend(900_000)
    budget.close()
    kernel.reboot()  # and who knows how long it lay in a drawer
    budget = kernel.budget(tmp_path / "count")
    assert budget.spent_bytes == 900_000
    kernel.now_s += 23 * HOUR_S
    assert budget.spent_bytes == 900_000
    kernel.now_s += 2 * HOUR_S
    assert budget.spent_bytes == 0


def test_a_clock_that_goes_back_does_no_harm(tmp_path: Path) -> None:
    kernel = Kernel()
    budget = kernel.budget(tmp_path / "count")
    budget.spend(500_000)
    budget.close()
    kernel.now_s = 1.0  # the same boot id, an impossible clock
    budget = kernel.budget(tmp_path / "count")
    assert budget.spent_bytes == 500_000


@pytest.mark.parametrize("damage", [b"", b"{", b'{"schema":1}', b"\xff" * 100])
def test_a_damaged_count_counts_as_a_spent_day(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "count").write_bytes(damage)
    budget = Kernel().budget(tmp_path / "count")
    assert not budget.allows("telemetry")
    assert budget.allows("state")
    assert budget.status()["count_was_damaged"]


HUGE = 10**30


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(st.integers(-HUGE, HUGE), st.integers(-HUGE, HUGE), max_size=4),
    st.floats(-1e300, 1e300),
    st.floats(-1e300, 1e300),
    st.booleans(),
)
def test_whatever_the_count_says_a_day_later_the_device_speaks_and_gains_nothing(
    tmp_path_factory: pytest.TempPathFactory,
    spent: dict[int, int],
    running_s: float,
    monotonic_s: float,
    same_boot: bool,
) -> None:
    path = tmp_path_factory.mktemp("budget") / "count"
    kernel = Kernel()
    kept = {
        "boot_id": kernel.boot_id if same_boot else "another",
        "monotonic_s": monotonic_s,
        "running_s": running_s,
        "spent": spent,
    }
    path.write_bytes(msgspec.json.encode(kept))
    budget = kernel.budget(path)
    assert budget.spent_bytes >= 0
    assert budget.blob_room_bytes() <= MB
    kernel.now_s += 25 * HOUR_S
    assert budget.spent_bytes == 0
    budget.spend(MB)
    assert not budget.allows("blob")
    budget.close()
    assert kernel.budget(path).spent_bytes == MB


def test_a_full_disk_stops_neither_link_nor_count(tmp_path: Path) -> None:
    (tmp_path / "count").mkdir()  # nothing can be written in its place
    kernel = Kernel()
    budget = ByteBudget(tmp_path / "count", MB, lambda: kernel.now_s, "boot")
    budget.spend(MB)
    assert not budget.allows("blob")


def test_a_link_that_is_not_metered_keeps_no_count(tmp_path: Path) -> None:
    budget = Kernel().budget(tmp_path / "count", 0)
    budget.spend(1 << 40)
    assert budget.allows("blob")
    assert budget.blob_room_bytes() == float("inf")
    budget.close()
    assert not (tmp_path / "count").exists()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["talk", "wait", "restart", "cut"]), st.integers(1, 30_000)),
        max_size=60,
    )
)
def test_no_24_hours_of_running_ever_carry_more_than_the_limit(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, int]]
) -> None:
    path = tmp_path_factory.mktemp("budget") / "count"
    kernel = Kernel()
    limit = 100_000
    budget = kernel.budget(path, limit)
    running_s = 0.0
    carried: list[tuple[float, int]] = []
    for what, amount in steps:
        if what == "talk" and budget.allows("blob"):
            budget.spend(amount)
            carried.append((running_s, amount))
        elif what == "wait":
            kernel.now_s += amount
            running_s += amount
        elif what == "restart":
            budget.close()
            budget = kernel.budget(path, limit)
        elif what == "cut":
            kernel.reboot()
            budget = kernel.budget(path, limit)
    for begin_s, _ in carried:
        day = sum(size for at_s, size in carried if begin_s <= at_s < begin_s + 24 * HOUR_S)
        assert day <= limit * SHARES["blob"] + 30_000, "one message may reach over the edge"


def test_overhead_is_counted() -> None:
    topic = "edge/v1/home/cam-1/telemetry/summary"
    assert message_bytes(topic, 0) > 200, "a small message is mostly overhead"
    assert 64_000 < message_bytes(topic, 64_000, qos=0) < 1.08 * 64_000
