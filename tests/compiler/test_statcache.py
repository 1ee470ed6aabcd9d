"""The cache saves time and decides nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from compiler.calibrate import calibration
from compiler.calibrate.ranges import BINS, TensorStats
from compiler.calibrate.statcache import ENTRIES_MAX, StatCache
from tests.compiler.conftest import Command, Small

STATS = {
    "a": TensorStats(-1.5, 2.0, np.arange(BINS, dtype=np.int64)),
    "b": TensorStats(0.0, 1e-3, np.zeros(BINS, np.int64)),
}


def test_an_entry_comes_back_as_it_went_in(tmp_path: Path) -> None:
    cache = StatCache(tmp_path / "new")
    assert cache.load("ab") is None
    cache.store("ab", STATS)
    found = cache.load("ab")
    assert found is not None
    assert found.keys() == STATS.keys()
    for name, stats in STATS.items():
        assert (found[name].low, found[name].high) == (stats.low, stats.high)
        assert (found[name].counts == stats.counts).all()


def test_a_damaged_entry_is_no_entry(tmp_path: Path) -> None:
    cache = StatCache(tmp_path)
    cache.store("ab", STATS)
    entry = tmp_path / "ab.npz"
    whole = entry.read_bytes()
    for cut in (0, 10, len(whole) // 2, len(whole) - 1):
        entry.write_bytes(whole[:cut])
        assert cache.load("ab") is None
    np.savez(entry, names=np.array(["a"]), low=[0.0], high=[np.nan], counts=np.zeros((1, BINS)))
    assert cache.load("ab") is None


def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    cache = StatCache(tmp_path / "file" / "folder")
    cache.store("ab", STATS)
    assert cache.load("ab") is None


def test_the_oldest_entries_go(tmp_path: Path) -> None:
    cache = StatCache(tmp_path)
    for number in range(ENTRIES_MAX + 3):
        cache.store(f"{number:02x}", STATS)
    assert len(list(tmp_path.glob("*.npz"))) == ENTRIES_MAX


def test_a_second_build_calibrates_from_the_cache_and_gives_the_same_bundle(
    small: Small,
    edge_compile: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    arguments = small.arguments(tmp_path / "out", "--json", "--effort", "fast")
    first = edge_compile(arguments)

    def refuse(*_: object) -> None:
        raise AssertionError("calibrated again")

    monkeypatch.setattr(calibration, "collect_stats", refuse)
    second = edge_compile(arguments)
    assert first.code == second.code == 0
    assert first.json["bundle_digest"] == second.json["bundle_digest"]
