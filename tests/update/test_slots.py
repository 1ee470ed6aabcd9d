"""Slots: whole or not there, switched by one small file, and nothing that lives is touched."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edge_agent.errors import AgentError
from edge_agent.update.boot import BootMarker
from edge_agent.update.latency import Latency
from edge_agent.update.pointer import Pointer
from edge_agent.update.slots import Slots
from edge_contract.digest import hex_of
from edge_contract.errors import ContractError, TrustError
from tests.update.bundles import HARDWARE, Version, make_version, whole_digest

V1, V2, V3 = make_version("1.0.0"), make_version("2.0.0"), make_version("3.0.0")


class Bench:
    """Slots with a directory of blobs beside them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = root / "blobs"
        self.blobs.mkdir(exist_ok=True)
        self.slots = Slots(root, HARDWARE)
        self.notes = self.slots.recover("", announced=True).notes

    def blob(self, digest: str) -> Path:
        return self.blobs / hex_of(digest)

    def fetch(self, version: Version) -> None:
        for digest, data in version.blobs.items():
            self.blob(digest).write_bytes(data)

    def stage(self, version: Version) -> None:
        self.fetch(version)
        self.slots.stage(version.order(1), self.blob)

    def install(self, version: Version) -> None:
        self.stage(version)
        self.slots.begin_trial(version.digest)
        self.slots.commit(version.digest)

    def again(self) -> Bench:
        return Bench(self.root)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_an_install_goes_spare_trial_active_and_alternates(bench: Bench) -> None:
    bench.install(V1)
    assert (bench.slots.active(), bench.slots.trial(), bench.slots.fallback()) != (None, None, None)
    bench.stage(V2)
    active = bench.slots.active()
    assert active is not None
    assert (active.name, active.digest) == ("A", V1.digest)
    bench.slots.begin_trial(V2.digest, Latency(p50_ms=9.5, p95_ms=12.5))
    assert bench.slots.pointer.trial_baseline == Latency(p50_ms=9.5, p95_ms=12.5)
    assert bench.slots.active() == active, "until the commit the active slot is the old one"
    bench.slots.commit(V2.digest, Latency(p50_ms=9.0, p95_ms=11.0))
    fallback = bench.again().slots.fallback()
    assert fallback == active
    assert bench.again().slots.pointer.active_latency == Latency(p50_ms=9.0, p95_ms=11.0)


def test_a_tampered_blob_never_becomes_a_slot(bench: Bench) -> None:
    bench.install(V1)
    bench.fetch(V2)
    for digest, data in V2.blobs.items():
        if digest in V1.blobs:
            continue
        for wrong in (data[:-1], data + b"x", bytes([data[0] ^ 1]) + data[1:]):
            bench.blob(digest).write_bytes(wrong)
            needed = b"other-board " not in data and b"descriptor" not in data
            if needed:
                with pytest.raises(TrustError):
                    bench.slots.stage(V2.order(2), bench.blob)
                assert not (bench.root / "slots" / "B").exists()
        bench.blob(digest).write_bytes(data)
    assert sorted(p.name for p in (bench.root / "slots").iterdir()) == ["A"]
    bench.slots.stage(V2.order(2), bench.blob)


def test_a_bundle_that_is_another_one_than_ordered_is_refused(bench: Bench) -> None:
    import msgspec

    bench.fetch(V1)
    lies = msgspec.structs.replace(V1.order(1), version="9.9.9")
    with pytest.raises(AgentError, match=r"it is digits 1\.0\.0, the order says"):
        bench.slots.stage(lies, bench.blob)


def test_a_bundle_for_other_hardware_is_refused(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.fetch(V1)
    slots = Slots(tmp_path, "third-board")
    with pytest.raises(ContractError, match="no variant for 'third-board'"):
        slots.stage(V1.order(1), bench.blob)


def test_a_failed_staging_leaves_the_fallback(bench: Bench) -> None:
    bench.install(V1)
    bench.install(V2)
    bench.fetch(V3)
    weights = next(d for d, data in V3.blobs.items() if data.startswith(b"good 3.0.0 sim-board"))
    bench.blob(weights).write_bytes(b"tampered")
    with pytest.raises(TrustError):
        bench.slots.stage(V3.order(3), bench.blob)
    fallback = bench.again().slots.fallback()
    assert fallback is not None
    assert fallback.digest == V1.digest


def test_a_fallback_that_gives_way_has_lost_its_right_to_run_before(bench: Bench) -> None:
    bench.install(V1)
    bench.install(V2)
    bench.stage(V3)
    assert (bench.slots.fallback(), bench.slots.pointer.fallback) == (None, "")
    assert bench.again().notes == ()


def test_staging_twice_changes_nothing(bench: Bench) -> None:
    bench.stage(V1)
    inode = (bench.root / "slots" / "A").stat().st_ino
    for blob in bench.blobs.iterdir():
        blob.unlink()
    assert bench.slots.stage(V1.order(1), bench.blob).name == "A"
    assert (bench.root / "slots" / "A").stat().st_ino == inode


def test_garbage_collection_spares_active_trial_and_fallback(bench: Bench) -> None:
    bench.install(V1)
    bench.install(V2)
    (bench.root / "slots" / ".A.leftover").mkdir()
    bench.slots.collect_garbage()
    assert sorted(p.name for p in (bench.root / "slots").iterdir()) == ["A", "B"]
    bench.stage(V3)
    bench.slots.begin_trial(V3.digest)
    bench.slots.collect_garbage()
    assert sorted(p.name for p in (bench.root / "slots").iterdir()) == ["A", "B"]
    bench.slots.revert()
    bench.slots.collect_garbage()
    assert [p.name for p in (bench.root / "slots").iterdir()] == ["B"]
    assert whole_digest(bench.root / "slots" / "B") == V2.digest


def test_nothing_is_staged_while_both_slots_are_in_use(bench: Bench) -> None:
    bench.install(V1)
    bench.stage(V2)
    bench.slots.begin_trial(V2.digest)
    with pytest.raises(AgentError, match="both slots are in use"):
        bench.stage(V3)


def test_a_trial_needs_a_slot_that_is_whole(bench: Bench) -> None:
    bench.stage(V1)
    (bench.root / "slots" / "A" / "files" / f"{HARDWARE}.gold").write_bytes(b"rot")
    with pytest.raises(TrustError, match=r"bytes for sim-board\.gold"):
        bench.slots.begin_trial(V1.digest)
    with pytest.raises(TrustError, match="it holds"):
        bench.slots.begin_trial(V2.digest)
    assert bench.slots.pointer == Pointer()


def test_a_commit_needs_a_trial_and_may_be_repeated(bench: Bench) -> None:
    bench.stage(V1)
    with pytest.raises(AgentError, match="on trial is nothing"):
        bench.slots.commit(V1.digest)
    bench.slots.begin_trial(V1.digest)
    bench.slots.begin_trial(V1.digest)
    bench.slots.commit(V1.digest)
    bench.slots.commit(V1.digest)
    assert bench.slots.pointer.active_digest == V1.digest
    bench.slots.revert()
    assert bench.slots.pointer.active_digest == V1.digest


@pytest.mark.parametrize("spoil", ["files/model.json", "manifest.json", "content.json"])
def test_a_damaged_active_slot_falls_back_and_a_damaged_only_one_does_not_run(
    bench: Bench, spoil: str
) -> None:
    bench.install(V1)
    bench.install(V2)
    path = bench.root / "slots" / "B" / spoil
    path.write_bytes(path.read_bytes().replace(b"2", b"3", 1))
    again = bench.again()
    active = again.slots.active()
    assert active is not None
    assert (active.name, active.digest) == ("A", V1.digest)
    assert "fell back to slot A" in again.notes[0]
    (bench.root / "slots" / "A" / spoil).unlink()
    alone = again.again()
    assert alone.slots.active() is None
    assert "no model runs" in alone.notes[0]
    alone.install(V3)
    assert alone.again().slots.active() is not None


def test_a_damaged_trial_or_fallback_is_dropped_at_the_start(bench: Bench) -> None:
    bench.install(V1)
    bench.stage(V2)
    bench.slots.begin_trial(V2.digest)
    (bench.root / "slots" / "B" / "files" / "model.json").unlink()
    again = bench.again()
    assert (again.slots.trial(), again.notes) == (None, ("slot B was damaged during its trial",))
    again.install(V2)
    (bench.root / "slots" / "A" / "files" / "model.json").unlink()
    last = again.again()
    assert last.notes == ("the fallback in slot A is damaged",)
    assert last.slots.fallback() is None


def test_a_slot_with_other_content_than_the_pointer_says_is_damaged(bench: Bench) -> None:
    bench.install(V1)
    bench.install(V2)
    root = bench.root / "slots"
    (root / "A").rename(root / "x")
    (root / "B").rename(root / "A")
    (root / "x").rename(root / "B")
    assert bench.again().slots.active() is None


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\0" * 64, b'{"active":"C"}', b'{"active":"A"}', b'{"schema":9}']
)
def test_a_damaged_pointer_is_rebuilt_from_what_the_journal_says_was_active(
    bench: Bench, damage: bytes
) -> None:
    bench.install(V1)
    bench.install(V2)
    (bench.root / "boot.json").write_bytes(damage)
    slots = Slots(bench.root, HARDWARE)
    found = slots.recover(V2.digest, announced=True)
    assert slots.pointer.active_digest == V2.digest
    assert "the journal says" in found.active_note
    (bench.root / "boot.json").write_bytes(damage)
    assert slots.recover("", announced=True).notes
    assert slots.active() is None, "without a word of the journal nothing may run"


def test_a_disk_that_refuses_the_corrected_pointer_stops_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.install(V1)
    bench.install(V2)
    (bench.root / "slots" / "B" / "files" / "model.json").unlink()

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        slots = Slots(bench.root, HARDWARE)
        patch.setattr(os, "fsync", full)
        assert slots.recover("", announced=True).notes
    active = slots.active()
    assert active is not None
    assert active.digest == V1.digest


@pytest.mark.parametrize("damage", [b"", b"{", b"\0" * 64])
def test_a_damaged_pointer_on_a_full_disk_stops_nothing(
    bench: Bench, damage: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.install(V1)
    (bench.root / "boot.json").write_bytes(damage)

    def full(fd: int) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        slots = Slots(bench.root, HARDWARE)
        patch.setattr(os, "fsync", full)
        assert "the journal says" in slots.recover(V1.digest, announced=True).active_note
    active = slots.active()
    assert active is not None
    assert active.digest == V1.digest


def test_a_pointer_that_cannot_be_read_is_rebuilt_and_without_the_journal_nothing_is_touched(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.install(V1)

    def bad_block(path: Path) -> Pointer:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("edge_agent.update.held_pointer.load_pointer", bad_block)
        slots = Slots(bench.root, HARDWARE)
        with pytest.raises(OSError, match="Input/output"):
            slots.recover("", announced=True)
        found = slots.recover(V1.digest, announced=True)
    assert "was unreadable (Input/output error); the journal says" in found.active_note
    active = bench.again().slots.active()
    assert active is not None
    assert active.digest == V1.digest


def test_a_pointer_that_the_disk_refused_is_read_again(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.stage(V1)

    def refuses(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        # The rename has happened, only its durability is refused.
        patch.setattr("edge_contract.layout.fsync_dir", refuses)
        with pytest.raises(OSError, match="Input/output"):
            bench.slots.begin_trial(V1.digest)
    assert bench.slots.pointer.trial_digest == V1.digest
    bench.slots.revert()
    assert bench.slots.trial() is None


@pytest.mark.parametrize("step", ["begin_trial", "commit", "revert"])
def test_a_step_that_the_disk_refused_to_make_durable_is_not_done_before_it_is(
    bench: Bench, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A power cut may take a rename back whose directory was not flushed."""
    bench.install(V1)
    bench.stage(V2)
    if step != "begin_trial":
        bench.slots.begin_trial(V2.digest)
    act = getattr(bench.slots, step)
    arguments = () if step == "revert" else (V2.digest,)

    def refuses(path: Path) -> None:
        raise OSError(5, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("edge_contract.layout.fsync_dir", refuses)
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                act(*arguments)
    act(*arguments)
    found = bench.again().slots.pointer
    assert found == bench.slots.pointer


def test_what_was_corrected_in_memory_outlives_a_pointer_that_the_disk_refuses(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.install(V1)
    bench.install(V2)
    (bench.root / "slots" / "B" / "files" / "model.json").unlink()
    bench.fetch(V3)

    def full(path: Path, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        slots = Slots(bench.root, HARDWARE)
        patch.setattr("edge_agent.update.pointer.write_durably", full)
        slots.recover("", announced=True)
        slots.stage(V3.order(1), bench.blob)
        with pytest.raises(OSError, match="No space"):
            slots.begin_trial(V3.digest)
    active = slots.active()
    assert active is not None
    assert active.digest == V1.digest, "the damaged version does not come back"
    slots.revert()
    assert bench.again().slots.pointer.active_digest == V1.digest


def test_blobs_that_a_slot_holds_are_offered_only_while_their_bytes_are_right(
    bench: Bench,
) -> None:
    bench.install(V1)
    weights = next(d for d, data in V1.blobs.items() if data.startswith(b"good 1.0.0 sim-board"))
    found = bench.slots.blob(weights)
    assert found is not None
    assert found.read_bytes() == V1.blobs[weights]
    assert bench.slots.blob(V1.digest) is not None
    other = next(d for d, data in V1.blobs.items() if b"other-board " in data)
    assert bench.slots.blob(other) is None
    found.write_bytes(b"rot")
    assert bench.slots.blob(weights) is None


def test_boots_tell_how_the_last_run_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = BootMarker(tmp_path, "boot-1")
    assert first.begin() == "clean"
    first.end()
    assert BootMarker(tmp_path, "boot-1").begin() == "clean"
    assert BootMarker(tmp_path, "boot-1").begin() == "crash"
    assert BootMarker(tmp_path, "boot-2").begin() == "power"
    (tmp_path / "running").write_bytes(b"\xff\xfe")
    assert BootMarker(tmp_path, "boot-2").begin() == "power"

    def bad_block(*_: object, **__: object) -> str:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "read_text", bad_block)
    assert BootMarker(tmp_path, "boot-2").begin() == "power"


def test_a_start_may_take_as_long_as_reading_the_slots_on_a_slow_card(bench: Bench) -> None:
    assert bench.slots.read_through_s() == 0.0
    bench.install(V1)
    with (bench.root / "slots" / "A" / "files" / "large").open("wb") as file:
        file.truncate(2 << 30)  # sparse
    assert 1000 < bench.slots.read_through_s() < 1100
