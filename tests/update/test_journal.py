"""The journal: what was appended is there, what was torn is not, and no fact is ever lost."""

from __future__ import annotations

import json
import os
import re
import shutil
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edge_agent.errors import AgentError
from edge_agent.update.effects import Fact
from edge_agent.update.journal import Journal, encode_line, read_journal
from edge_agent.update.state import Stage, UpdateState
from tests.update.bundles import make_version
from tests.update.conftest import make_dir

ORDER = make_version("1.0.0").order(7)


def state(ticket: int) -> UpdateState:
    return UpdateState(stage=Stage.FETCHING, ticket=ticket, order=ORDER, seen=ORDER.key)


def fact(n: int) -> Fact:
    return Fact(what="entered", slot="AB"[n % 2], digest=f"sha256:{n:064x}", version=f"{n}.0.0")


def open_journal(path: Path, now_s: float = 5.0) -> Journal:
    return Journal(path / "update.jsonl", lambda: now_s)


def test_a_new_journal_begins_at_rest_and_replays_to_the_last_state(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    assert journal.state == UpdateState()
    for n in range(1, 4):
        journal.append("FetchDone", state(n), [fact(n)])
    journal.close()
    again = open_journal(tmp_path)
    assert (again.state, again.notes) == (state(3), [])
    again.append("StageDone", state(4))
    assert [e.n for e in read_journal(tmp_path / "update.jsonl")] == [1, 2, 3, 4]


def test_every_line_is_plain_json_that_a_stranger_can_check(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append("StageDone", state(1), [fact(1)])
    line = (tmp_path / "update.jsonl").read_bytes()
    entry = json.loads(line)
    assert entry["facts"][0]["digest"] == fact(1).digest
    assert entry["crc"] == f"{zlib.crc32(line.rpartition(b',')[0]):08x}"
    assert (entry["n"], entry["ts"], entry["event"]) == (1, 5.0, "StageDone")


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(0, 10_000), junk=st.binary(max_size=60))
def test_a_torn_tail_is_dropped_and_the_rest_stays(cut: int, junk: bytes) -> None:
    path = make_dir()
    journal = open_journal(path)
    sizes = [0]
    for n in range(1, 5):
        journal.append("FetchDone", state(n), [fact(n)])
        sizes.append((path / "update.jsonl").stat().st_size)
    journal.close()
    cut = cut % (sizes[-1] + 1)
    data = (path / "update.jsonl").read_bytes()[:cut] + junk.replace(b"\n", b"")
    (path / "update.jsonl").write_bytes(data)
    whole = sum(size <= cut for size in sizes) - 1
    again = open_journal(path)
    assert again.state == (state(whole) if whole else UpdateState())
    assert again.notes == []
    again.append("StageDone", state(9), [fact(9)])
    again.close()
    facts = [f for e in read_journal(path / "update.jsonl") for f in e.facts]
    assert facts == [*(fact(n) for n in range(1, whole + 1)), fact(9)]
    shutil.rmtree(path)


def test_a_damaged_line_is_kept_aside_said_and_the_rest_is_used(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    for n in range(1, 5):
        journal.append("FetchDone", state(n), [fact(n)])
    journal.close()
    path = tmp_path / "update.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    before = path.read_bytes()
    path.write_bytes(b"".join([lines[0], lines[1].replace(b"fetching", b"fetchinG"), *lines[2:]]))
    again = open_journal(tmp_path)
    assert again.state == state(4)
    assert "the first is line 2" in again.notes[0]
    assert (tmp_path / "update.jsonl.damaged-4").stat().st_size == len(before)
    assert [f for e in read_journal(path) for f in e.facts] == [fact(1), fact(3), fact(4)]
    again.close()
    assert open_journal(tmp_path).notes == []


def test_compaction_drops_states_and_never_a_fact(tmp_path: Path) -> None:
    facts = []
    for run in range(4):
        journal = open_journal(tmp_path, now_s=float(run))
        for n in range(50):
            kept = [fact(n)] if n % 10 == 0 else []
            facts += [(float(run), f) for f in kept]
            journal.append("FetchDone", state(n), kept)
        journal.close()
    open_journal(tmp_path).close()
    entries = read_journal(tmp_path / "update.jsonl")
    assert [(e.ts, f) for e in entries for f in e.facts] == facts
    assert sum(e.state is not None for e in entries) == 1
    assert entries[-1].n == 200
    assert (tmp_path / "update.jsonl").stat().st_size < 8000


def test_an_append_that_the_disk_refuses_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    journal.append("FetchDone", state(1))
    real = os.write
    monkeypatch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]) and _full())
    with pytest.raises(AgentError, match="No space left"):
        journal.append("StageDone", state(2))
    monkeypatch.setattr(os, "write", real)
    assert journal.state == state(1)
    journal.append("StageDone", state(3))
    journal.close()
    again = open_journal(tmp_path)
    assert (again.state, again.notes) == (state(3), [])


def test_a_full_disk_at_the_start_keeps_the_journal_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = open_journal(tmp_path)
    for n in range(5):
        journal.append("FetchDone", state(n))
    journal.close()
    monkeypatch.setattr("edge_agent.update.journal.write_durably", lambda path, data: _full())
    again = open_journal(tmp_path)
    assert again.state == state(4)
    assert "could not be compacted" in again.notes[0]


def test_a_journal_that_cannot_be_read_is_said_refuses_every_entry_and_stays_as_it_is(
    tmp_path: Path,
) -> None:
    says = r"update journal .*update\.jsonl cannot be used"
    (tmp_path / "update.jsonl").mkdir()
    journal = open_journal(tmp_path)
    assert re.search(says, journal.notes[0])
    for _ in range(2):
        with pytest.raises(AgentError, match=says):
            journal.append("FetchDone", state(1))
    journal.close()
    assert list((tmp_path / "update.jsonl").iterdir()) == []


def test_what_the_disk_would_not_cut_off_is_cut_off_before_the_next_entry(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where files are never overwritten in place (btrfs, UBIFS), a full disk refuses that, too."""
    journal = open_journal(tmp_path)
    journal.append("FetchDone", state(1))
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda fd, data: real(fd, data[: len(data) // 2]) and _full())
        patch.setattr(os, "ftruncate", lambda fd, size: _full())
        for _ in range(2):
            with pytest.raises(AgentError, match="No space left"):
                journal.append("StageDone", state(2))
    journal.append("StageDone", state(3))
    journal.close()
    again = open_journal(tmp_path)
    assert (again.state, again.notes) == (state(3), [])


def test_the_crc_covers_the_whole_entry(tmp_path: Path) -> None:
    journal = open_journal(tmp_path)
    journal.append("FetchDone", state(1), [fact(1)])
    line = (tmp_path / "update.jsonl").read_bytes()
    entry = read_journal(tmp_path / "update.jsonl")[0]
    assert encode_line(entry) == line
    for position in range(len(line) - 1):
        flipped = bytearray(line)
        flipped[position] ^= 1
        (tmp_path / "flipped").write_bytes(flipped)
        assert read_journal(tmp_path / "flipped") == []


def _full() -> int:
    raise OSError(28, "No space left on device")
