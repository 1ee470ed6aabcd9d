"""A damaged file or a full disk: reported, counted, survived. Never healthy but idle."""

from __future__ import annotations

import json
import os
import random
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.telemetry.errors import SpoolError
from edge_agent.telemetry.spool import Spool, SpoolRecord
from edge_contract.intervals import IntervalSet
from tests.programs import leave_out

OpenSpool = Callable[..., Spool]
Drain = Callable[..., list[SpoolRecord]]
Span = Callable[..., Callable[[int], bytes]]

ROOT = Path(__file__).parents[2]


@contextmanager
def no_file_grows_beyond(size_bytes: int) -> Iterator[None]:
    """The kernel refuses to make any file of this process larger, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def codes(spool: Spool) -> dict[str, bool]:
    return {finding.code: finding.active for finding in spool.findings}


def filled(open_spool: OpenSpool, span: Span, tmp_path: Path) -> Path:
    spool = open_spool()
    for _ in range(30):
        spool.append("telemetry", span(8000), durable=True)
    spool.close()
    return tmp_path / "spool.db"


def truncate_to_nothing(path: Path) -> None:
    os.truncate(path, 0)


def truncate_to_half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def truncate_within_a_page(path: Path) -> None:
    os.truncate(path, 1000)


def garbage_in_the_header(path: Path) -> None:
    with path.open("r+b") as file:
        file.write(random.Random(1).randbytes(64))


def garbage_pages(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(random.Random(1).randbytes(9 * 4096))


def another_program(path: Path) -> None:
    path.write_bytes(b"[settings]\nspool = yes\n" * 1000)


DAMAGES = [
    truncate_to_nothing,
    truncate_to_half,
    truncate_within_a_page,
    garbage_in_the_header,
    garbage_pages,
    another_program,
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_spool_is_set_aside_reported_and_replaced(
    open_spool: OpenSpool,
    span: Span,
    drain: Drain,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    path = filled(open_spool, span, tmp_path)
    damage(path)
    damaged = path.read_bytes()
    spool = open_spool()
    (finding,) = spool.findings
    assert (finding.code, finding.active) == ("quarantined", True)
    assert str(path) in finding.message
    assert path.with_name("spool.db.quarantined").read_bytes() == damaged
    spool.append("telemetry", span(100), durable=True)
    assert len(drain(spool)) == 1


def test_sequence_numbers_that_may_be_used_up_are_not_given_again(
    open_spool: OpenSpool, span: Span, tmp_path: Path
) -> None:
    garbage_pages(filled(open_spool, span, tmp_path))
    spool = open_spool()
    assert spool.boot_id == "boot-1.f00d"
    spool.append("telemetry", span(100))
    spool.close()
    spool = open_spool()
    assert spool.boot_id == "boot-1.f00d"
    assert spool.append("telemetry", span(100)) == 2


def test_power_cut_while_setting_aside_is_noticed_at_the_next_start(
    open_spool: OpenSpool, span: Span, tmp_path: Path
) -> None:
    path = filled(open_spool, span, tmp_path)
    path.rename(path.with_name("spool.db.quarantined"))
    spool = open_spool()
    assert codes(spool) == {"quarantined": True}
    assert spool.boot_id == "boot-1.f00d"


def test_crash_before_the_first_flush_after_damage_reuses_no_number(
    open_spool: OpenSpool, span: Span, tmp_path: Path
) -> None:
    garbage_in_the_header(filled(open_spool, span, tmp_path))
    open_spool().close()  # made a fresh spool and flushed nothing
    spool = open_spool()
    assert codes(spool) == {"quarantined": True}
    assert spool.boot_id == "boot-1.f00d"
    spool.append("telemetry", span(), durable=True)
    spool.close()
    spool = open_spool(boot_id="boot-2")
    assert (spool.boot_id, spool.findings) == ("boot-2", [])


def test_power_cut_while_making_the_spool_leaves_nothing_odd(
    open_spool: OpenSpool, span: Span, tmp_path: Path
) -> None:
    (tmp_path / "spool.db.new").write_bytes(b"half")
    spool = open_spool()
    assert spool.findings == []
    assert spool.append("telemetry", span(), durable=True) == 1


def test_evidence_gives_way_when_its_space_is_needed(
    open_spool: OpenSpool, span: Span, tmp_path: Path, cap_bytes: int
) -> None:
    path = filled(open_spool, span, tmp_path)
    garbage_in_the_header(path)
    aside = path.with_name("spool.db.quarantined")
    spool = open_spool()
    spool.append("telemetry", span(8000), durable=True)
    assert aside.exists()
    for _ in range(150):
        spool.append("telemetry", span(8000), durable=True)
        assert spool.stats().used_bytes <= cap_bytes + 1_000_000
    assert not aside.exists()


def test_damage_while_running_costs_no_later_record(
    open_spool: OpenSpool, span: Span, drain: Drain, tmp_path: Path
) -> None:
    filled(open_spool, span, tmp_path)
    spool = open_spool()
    garbage_pages(tmp_path / "spool.db")
    os.truncate(tmp_path / "spool.db", 5 * 4096)
    for _ in range(10):
        spool.append("telemetry", span(8000))
        spool.flush()
        spool.next_batch("telemetry")
    assert codes(spool) == {"quarantined": True}
    records = drain(spool)
    assert records[-1].seq_last == 40
    assert [r.boot_id for r in records] == ["boot-1"] * len(records)
    assert spool.stats().pending_records == 0


def test_damaged_blob_is_dropped_counted_and_the_rest_goes_on(
    open_spool: OpenSpool, span: Span, drain: Drain, tmp_path: Path
) -> None:
    path = filled(open_spool, span, tmp_path)
    content = bytearray(path.read_bytes())
    page = len(content) // 4096 // 2 * 4096  # in the middle: the inside of a blob
    content[page + 1000 : page + 1100] = random.Random(1).randbytes(100)
    path.write_bytes(content)
    spool = open_spool()
    kept = IntervalSet((r.seq_first, r.seq_last) for r in drain(spool))
    (lost,) = spool.tombstones()
    assert lost.reason == "damaged"
    assert codes(spool) == {"record_damaged": True}
    assert kept.union(IntervalSet([(lost.seq_first, lost.seq_last)])).to_list() == [[1, 30]]


def test_full_disk_drops_by_policy_and_recovers(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool()
    accepted: list[Any] = []
    with no_file_grows_beyond(400_000):
        for _ in range(150):
            spool.append("telemetry", span(8000))
            accepted += spool.flush()
        assert any(codes(spool).get(code) for code in ("storage_full", "storage_io"))
        assert spool.stats().dropped_count > 0
    accepted += spool.flush()
    assert not any(codes(spool).values())
    records = drain(spool)
    kept = IntervalSet((r.seq_first, r.seq_last) for r in records)
    lost = IntervalSet((t.seq_first, t.seq_last) for t in spool.tombstones())
    assert kept.union(lost).to_list() == [[1, 150]]
    assert kept.count() + lost.count() == 150
    assert kept.difference(IntervalSet((a.seq_first, a.seq_last) for a in accepted)).count() == 0
    assert kept.to_list()[-1][1] == 150


def test_disk_full_from_the_start_keeps_a_bounded_rest_in_memory(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool()
    with no_file_grows_beyond(1000):
        for _ in range(100):
            spool.append("telemetry", span(8000))
            assert spool.flush() == []
            assert spool.next_batch("telemetry") == []
        stats = spool.stats()
        assert 20 <= stats.pending_records <= 40
        assert stats.dropped_count == 100 - stats.pending_records
    (accepted,) = spool.flush()
    assert accepted.seq_last == 100
    assert [t.reason for t in spool.tombstones()] == ["unwritten"]
    assert spool.tombstones()[0].seq_last == accepted.seq_first - 1
    assert len(drain(spool)) == stats.pending_records


def test_acknowledgement_holds_through_a_full_disk(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool()
    for _ in range(3):
        spool.append("telemetry", span(8000), durable=True)
    drain(spool)
    spool.ack("boot-1", "telemetry", [[1, 2]])
    with no_file_grows_beyond(1000):
        spool.append("telemetry", span(8000), durable=True)  # refused and rolled back
        spool.reset_in_flight()
        assert spool.stats().pending_records == 1
        assert spool.stats().classes["telemetry"].records == 1
    spool.flush()
    assert [r.seq_first for r in drain(spool)] == [3, 4]
    assert spool.stats().dropped_count == 0


def test_full_disk_at_the_first_start_is_one_clear_error(
    open_spool: OpenSpool, tmp_path: Path
) -> None:
    with no_file_grows_beyond(1000), pytest.raises(SpoolError, match=r"spool\.db") as caught:
        open_spool()
    assert "free space" in caught.value.hint
    assert not (tmp_path / "spool.db").exists()


ON_A_FULL_TMPFS = """
import json, os, random, sys
from pathlib import Path
from edge_agent.telemetry.spool import Spool

where = Path(sys.argv[1])
spool = Spool.open(
    where / "spool.db", cap_bytes=4 << 20, boot_id="b", merge={}, clock=lambda: 0.0,
    quotas={"telemetry": 0.4, "drift": 0.2, "event": 0.2, "status": 0.2},
)
accepted = sum((
    [] if spool.append("event", lambda s: random.Random(s).randbytes(8000)) is None
    else spool.flush() for _ in range(100)), [])
while_full = {f.code: f.active for f in spool.findings}
(where / "someone elses.bin").unlink()
for _ in range(5):
    spool.append("event", lambda s: random.Random(s).randbytes(8000))
accepted += spool.flush()
kept = []
while batch := spool.next_batch("event"):
    kept += [r.seq_first for r in batch]
lost = [s for t in spool.tombstones() for s in range(t.seq_first, t.seq_last + 1)]
print(json.dumps({
    "while_full": while_full, "after": {f.code: f.active for f in spool.findings},
    "kept": kept, "lost": lost, "dropped": spool.stats().dropped_count,
    "accepted": [s for a in accepted for s in range(a.seq_first, a.seq_last + 1)],
}))
"""


def test_no_space_left_on_a_real_file_system(tmp_path: Path) -> None:
    mount = f"mount -t tmpfs -o size=1m none {tmp_path}"
    if subprocess.run(["unshare", "-m", "sh", "-c", mount], capture_output=True).returncode:
        leave_out("mounting a small tmpfs is not allowed here; the tests with RLIMIT_FSIZE ran")
    fill = f"head -c 700000 /dev/zero > '{tmp_path}/someone elses.bin'"
    script = f'{mount} && {fill} && exec {sys.executable} -c "$CODE" {tmp_path}'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "CODE": ON_A_FULL_TMPFS},
    )
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["while_full"] == {"storage_full": True}
    assert report["after"] == {"storage_full": False}
    assert sorted(report["kept"] + report["lost"]) == list(range(1, 106))
    assert len(report["lost"]) == report["dropped"] > 0
    assert set(report["kept"]) <= set(report["accepted"])


def test_ledger_that_cannot_be_written_is_a_finding_and_nothing_else(
    open_spool: OpenSpool, span: Span, drain: Drain
) -> None:
    spool = open_spool(ledger_path=Path("/dev/full"))
    spool.append("telemetry", span(), durable=True)
    assert len(spool.flush()) == 1
    assert codes(spool) == {"ledger_failed": True}
    assert len(drain(spool)) == 1
