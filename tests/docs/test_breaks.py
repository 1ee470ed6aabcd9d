"""The deliberate breaks can be tried: none of them names a line that is gone."""

from __future__ import annotations

from pathlib import Path

from tests.break_list import BREAKS

ROOT = Path(__file__).parents[2]


def test_every_break_finds_the_one_line_that_it_takes_out() -> None:
    counts = {item.what: (ROOT / item.file).read_text().count(item.old) for item in BREAKS}
    assert {what for what, count in counts.items() if count != 1} == set()
    assert all((ROOT / item.tests.partition("::")[0]).exists() for item in BREAKS)
