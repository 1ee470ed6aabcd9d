"""The spool against a model: any order of calls, restarts and power cuts.

A power cut is a copy of the directory as it lies on disk while the spool is open, opened anew: what
a process had in memory and in open transactions is gone, what was committed is there.
"""

from __future__ import annotations

import json
import random
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from edge_agent.telemetry.quota import CLASSES
from edge_agent.telemetry.spool import Spool, SpoolRecord
from edge_contract.intervals import IntervalSet, Overlap

CAP_BYTES = 512 * 1024
Key = tuple[str, str]

classes = st.sampled_from(CLASSES)


def read(payload: bytes) -> tuple[dict[str, Any], bytes]:
    """What a payload says of itself, and the bytes that only make it large."""
    head, _, filler = payload.partition(b"\n")
    return json.loads(head), filler


def write(head: dict[str, Any], filler: bytes) -> bytes:
    return json.dumps(head).encode() + b"\n" + filler


def merge(earlier: bytes, later: bytes) -> bytes | None:
    (a, _), (b, filler) = read(earlier), read(later)
    assert a["last"] + 1 == b["first"]
    assert a["key"] == b["key"]
    if b["last"] - a["first"] >= 100:
        return None
    return write({**b, "first": a["first"], "sum": a["sum"] + b["sum"]}, filler)


class SpoolModel(RuleBasedStateMachine):
    """What must hold of every sequence number: the model knows how far each one got."""

    def __init__(self) -> None:
        super().__init__()
        # In memory where there is such a place: the model's power cuts need no real syncs.
        memory = Path("/dev/shm")
        where = memory if memory.is_dir() else None
        self.root = Path(tempfile.mkdtemp(prefix="spool-model-", dir=where))
        self.generation = 0
        self.accepted: dict[Key, IntervalSet] = defaultdict(IntervalSet)
        self.acknowledged: dict[Key, IntervalSet] = defaultdict(IntervalSet)
        self.sent: dict[Key, dict[int, tuple[int, bytes]]] = defaultdict(dict)
        self.in_flight: dict[Key, IntervalSet] = defaultdict(IntervalSet)
        self.boots = 1

    def open(self) -> None:
        self.spool = Spool.open(
            self.directory / "spool.db",
            cap_bytes=CAP_BYTES,
            quotas={"telemetry": 0.4, "drift": 0.2, "event": 0.2, "status": 0.2},
            boot_id=f"boot-{self.boots}",
            merge={"telemetry": merge, "drift": merge},
            clock=lambda: 0.0,
        )
        self.in_flight.clear()

    @property
    def directory(self) -> Path:
        return self.root / str(self.generation)

    @initialize(cls=classes, count=st.sampled_from([36, 34, 0]))
    def start(self, cls: str, count: int) -> None:
        """Most runs begin near the cap: nothing happens far from it."""
        self.directory.mkdir()
        self.open()
        self.append(cls, count, 12_000, True)

    def payload(self, cls: str, size_bytes: int) -> Callable[[int], bytes]:
        def make(seq: int) -> bytes:
            head = {"key": [cls, self.spool.boot_id], "first": seq, "last": seq, "sum": seq}
            return write(head, random.Random(seq).randbytes(size_bytes))

        return make

    @rule(
        cls=classes,
        count=st.integers(1, 12),
        size_bytes=st.sampled_from([9000, 10, 1000, 30_000]),
        durable=st.booleans(),
    )
    def append(self, cls: str, count: int, size_bytes: int, durable: bool) -> None:
        for _ in range(count):
            self.spool.append(cls, self.payload(cls, size_bytes), durable=durable)

    @rule()
    def flush(self) -> None:
        for a in self.spool.flush():
            mine = self.accepted[a.cls, a.boot_id]
            assert mine.classify(a.seq_first, a.seq_last) is Overlap.DISJOINT, "seq reused"
            mine.add(a.seq_first, a.seq_last)
        assert self.spool.stats().pending_records == 0

    @rule(cls=classes, max_bytes=st.integers(1, 100_000), max_records=st.integers(1, 30))
    def send(self, cls: str, max_bytes: int, max_records: int) -> None:
        records = self.spool.next_batch(cls, max_bytes=max_bytes, max_records=max_records)
        assert len(records) <= max_records
        assert len(records) <= 1 or sum(len(r.payload) for r in records) <= max_bytes
        for record in records:
            self.check_sent(record)
            key = (cls, record.boot_id)
            flying = self.in_flight[key]
            assert flying.classify(record.seq_first, record.seq_last) is Overlap.DISJOINT
            flying.add(record.seq_first, record.seq_last)
            self.sent[key][record.seq_first] = (record.seq_last, record.payload)

    @rule(cls=classes, data=st.data())
    def acknowledge(self, cls: str, data: st.DataObject) -> None:
        for key, records in list(self.sent.items()):
            if key[0] != cls or not records:
                continue
            firsts = data.draw(st.sets(st.sampled_from(sorted(records))))
            ranges = [[first, records[first][0]] for first in firsts]
            self.spool.ack(key[1], cls, ranges)
            self.acknowledged[key].update(IntervalSet(ranges))

    @rule()
    def reconnect(self) -> None:
        self.spool.reset_in_flight()
        self.in_flight.clear()

    @rule(new_boot=st.booleans())
    def restart(self, new_boot: bool) -> None:
        self.flush()
        self.spool.close()
        self.boots += new_boot
        self.open()

    @rule(new_boot=st.booleans())
    def cut_power(self, new_boot: bool) -> None:
        before, self.generation = self.directory, self.generation + 1
        shutil.copytree(before, self.directory)
        # What an append flushed unasked, the next flush would have reported: not promised yet.
        self.spool.close()
        shutil.rmtree(before)
        self.boots += new_boot
        self.open()

    @invariant()
    def disk_is_within_cap_and_one_megabyte(self) -> None:
        if hasattr(self, "spool"):
            used_bytes = sum(file.stat().st_size for file in self.directory.iterdir())
            assert used_bytes <= CAP_BYTES + 1_000_000

    def check_sent(self, record: SpoolRecord) -> None:
        """What was ever sent comes again only as it was."""
        for first, (last, payload) in self.sent[record.cls, record.boot_id].items():
            if first <= record.seq_last and record.seq_first <= last:
                assert (first, last, payload) == (
                    record.seq_first,
                    record.seq_last,
                    record.payload,
                )

    def teardown(self) -> None:
        if not hasattr(self, "spool"):
            return
        self.flush()
        assert self.spool.findings == []
        self.reconnect()
        held: dict[Key, IntervalSet] = defaultdict(IntervalSet)
        for cls in CLASSES:
            while batch := self.spool.next_batch(cls):
                for record in batch:
                    self.check_sent(record)
                    body, _ = read(record.payload)
                    first, last = record.seq_first, record.seq_last
                    assert (body["first"], body["last"]) == (first, last)
                    assert body["key"] == [cls, record.boot_id]
                    assert body["sum"] == sum(range(first, last + 1)), "merge lost or doubled"
                    mine = held[cls, record.boot_id]
                    assert mine.classify(first, last) is Overlap.DISJOINT, "counted twice"
                    mine.add(first, last)
        lost: dict[Key, IntervalSet] = defaultdict(IntervalSet)
        for stone in self.spool.tombstones():
            lost[stone.cls, stone.boot_id].add(stone.seq_first, stone.seq_last)
        for key, wanted in self.accepted.items():
            accounted = held[key].union(lost[key]).union(self.acknowledged[key])
            assert wanted.difference(accounted).to_list() == [], f"lost without a trace: {key}"
        assert self.spool.stats().dropped_count == sum(s.count() for s in lost.values())
        self.spool.close()
        shutil.rmtree(self.root)


SpoolModel.TestCase.settings = settings(
    max_examples=50,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
TestSpoolAgainstModel = SpoolModel.TestCase
