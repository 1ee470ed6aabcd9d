"""SIGKILL at any instant: a real writer, a real kill, a dozen rounds on one spool."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edge_agent.telemetry.spool import Spool, SpoolRecord
from edge_contract.intervals import IntervalSet, Overlap

ROUNDS = 12
WRITER = Path(__file__).with_name("spool_writer.py")


def run_until_killed(directory: Path, seed: int, cap_bytes: int) -> list[list[Any]]:
    """What the writer said before it died, without a last half line."""
    writer = subprocess.Popen(
        [sys.executable, str(WRITER), str(directory), str(seed), str(cap_bytes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(WRITER.parents[2])},
    )
    assert writer.stdout is not None
    rng = random.Random(seed)
    # By lines first, so that a busy machine changes nothing; then at any instant of the next.
    said = [writer.stdout.readline() for _ in range(rng.randrange(60, 200))]
    time.sleep(rng.uniform(0, 0.02))
    writer.send_signal(signal.SIGKILL)
    # Not communicate(): it would pass over what readline() has buffered.
    assert writer.stderr is not None
    rest, errors = writer.stdout.read(), writer.stderr.read()
    assert writer.wait(30) == -signal.SIGKILL, errors.decode()
    return [json.loads(line) for line in (b"".join(said) + rest).split(b"\n")[:-1]]


def ledger_of(directory: Path) -> dict[str, IntervalSet]:
    ledger: dict[str, IntervalSet] = defaultdict(IntervalSet)
    for line in (directory / "ledger.jsonl").read_text().splitlines():
        try:
            entry = json.loads(line)
        except json.JSONDecodeError:
            continue  # torn by a kill: nobody was told of it
        ledger[entry["class"]].add(entry["seq_a"], entry["seq_b"])
    return ledger


@pytest.mark.parametrize("cap_bytes", [64 << 20, 512 << 10], ids=["roomy", "at the cap"])
def test_nothing_acknowledged_into_the_spool_is_lost_to_sigkill(
    tmp_path: Path,
    open_spool: Callable[..., Spool],
    drain: Callable[..., list[SpoolRecord]],
    cap_bytes: int,
) -> None:
    accepted, acking = defaultdict(IntervalSet), defaultdict(IntervalSet)
    sent: dict[str, dict[int, int]] = defaultdict(dict)
    for seed in range(ROUNDS):
        for what, *key in run_until_killed(tmp_path, seed, cap_bytes):
            if what == "accepted":
                cls, first, last = key
                # A number given out twice would turn up in two rounds.
                assert accepted[cls].classify(first, last) is Overlap.DISJOINT
                accepted[cls].add(first, last)
            elif what == "sent":
                cls, first, last = key
                assert sent[cls].setdefault(first, last) == last
            elif what == "acking":
                acking[key[0]].add(key[1], key[2])
    spool = open_spool(cap_bytes=cap_bytes)
    assert spool.findings == []
    roomy = cap_bytes > 1 << 20
    assert (spool.stats().dropped_count == 0) == roomy
    ledger = ledger_of(tmp_path)
    for cls, wanted in accepted.items():
        accounted = acking[cls].copy()
        buried = [lost for lost in spool.tombstones() if lost.cls == cls]
        for lost in buried:
            accounted.add(lost.seq_first, lost.seq_last)
        # The list of tombstones is bounded; older ones live on in the count alone. None are
        # forgotten where the list never filled up, and then nothing may be unaccounted for.
        listed = sum(lost.seq_last - lost.seq_first + 1 for lost in buried)
        forgotten = spool.stats().classes[cls].dropped_count - listed
        sent_of_class = IntervalSet(sent[cls].items())
        for record in drain(spool, cls):
            assert record.payload.startswith(f"{cls} {record.seq_first} ".encode())
            accounted.add(record.seq_first, record.seq_last)
            if sent_of_class.classify(record.seq_first, record.seq_last) is not Overlap.DISJOINT:
                assert sent[cls][record.seq_first] == record.seq_last
        assert wanted.difference(accounted).count() <= forgotten
        assert wanted.difference(ledger[cls]).to_list() == []
        assert ledger[cls].difference(accounted).count() <= forgotten
    assert sum(wanted.count() for wanted in accepted.values()) > 50 * ROUNDS
