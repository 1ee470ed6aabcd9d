"""The ledger against a plain model: every number once, and nothing remembered before a commit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, select

from edge_contract.intervals import Overlap
from edge_contract.messages import UpdateStatus
from fleet.store import Store, open_store
from fleet.store.records import RecordRow, Stream
from fleet.store.schema import committed, duplicates, records
from fleet.telemetry.ledger import Ledger
from fleet.telemetry.record import Record

STATUS = UpdateStatus(
    ts=0.0,
    seq=1,
    boot_id="b",
    model_version="",
    rollout="r",
    desired_seq=1,
    digest="",
    version="1.0.0",
    phase="staged",
)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return open_store(tmp_path_factory.mktemp("store") / "fleet.db", fleet="home")


def record(device: str, boot: str, first: int, last: int, *, received_at_s: float = 0.0) -> Record:
    row = RecordRow(
        device=device,
        boot_id=boot,
        cls="telemetry",
        seq=last,
        seq_first=first,
        name="summary",
        severity="info",
        ts=0.0,
        received_at_s=received_at_s,
        model_version="",
        payload=b"",
    )
    return Record(Stream(device, boot, "telemetry"), row, STATUS)


ranges = st.integers(1, 12).flatmap(lambda a: st.tuples(st.just(a), st.integers(a, min(a + 3, 14))))
sent = st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"]), ranges)
batches = st.lists(st.tuples(st.booleans(), st.lists(sent, max_size=6)), max_size=8)


@settings(max_examples=40, deadline=None)
@given(batches)
def test_whatever_comes_each_number_is_stored_once(
    store: Store, taken: list[tuple[bool, list[tuple[str, str, tuple[int, int]]]]]
) -> None:
    with store.write() as tx:
        for table in (records, committed, duplicates):
            tx.execute(delete(table))
    ledger = Ledger()
    model: dict[tuple[str, str], set[int]] = {}
    repeats = 0
    for commits, batch in taken:
        state = {stream: set(numbers) for stream, numbers in model.items()}
        again = 0
        connection = store.engine.connect()
        page = ledger.open(connection, 0.0)
        for device, boot, (first, last) in batch:
            have = state.setdefault((device, boot), set())
            new = set(range(first, last + 1))
            overlap = page.take_in(record(device, boot, first, last))
            if not new & have:
                assert overlap is Overlap.DISJOINT
                have |= new
            elif new <= have:
                assert overlap is Overlap.CONTAINED
                again += 1
            else:
                assert overlap is Overlap.PARTIAL
        page.write()
        if commits:
            connection.commit()
            acks = page.committed()
            for stream, pairs in acks.items():
                told = {n for a, b in pairs for n in range(a, b + 1)}
                assert told <= state[stream.device, stream.boot_id]
            model, repeats = state, repeats + again
        connection.close()
    with store.read() as tx:
        stored = [
            (device, boot, n)
            for device, boot, first, last in tx.execute(
                select(records.c.device, records.c.boot_id, records.c.seq_first, records.c.seq)
            )
            for n in range(first, last + 1)
        ]
        counted = sum(copies for (copies,) in tx.execute(select(duplicates.c.copies)))
    assert len(stored) == len(set(stored))
    assert set(stored) == {(d, b, n) for (d, b), numbers in model.items() for n in numbers}
    assert counted == repeats


def test_the_ledger_of_a_new_process_knows_what_is_stored(tmp_path: Path) -> None:
    store = open_store(tmp_path / "fleet.db", fleet="home")
    with store.write() as tx:
        page = Ledger().open(tx, 0.0)
        assert page.take_in(record("a", "x", 1, 5)) is Overlap.DISJOINT
        page.write()
    with store.write() as tx:
        page = Ledger().open(tx, 0.0)
        assert page.take_in(record("a", "x", 2, 3)) is Overlap.CONTAINED
        assert page.take_in(record("a", "x", 5, 6)) is Overlap.PARTIAL
