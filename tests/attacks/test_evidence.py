"""The committed table names every attack of this folder, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.attacks.conftest import EVIDENCE, identity_attacks


def test_table_names_every_attack() -> None:
    functions = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        if path.name != Path(__file__).name and not path.name.startswith("test_identity_"):
            functions |= set(re.findall(r"^def test_(\w+)\(", path.read_text(), re.MULTILINE))
    attacks = {
        name.replace("_", " ")
        for name in functions
        if not name.endswith("so_the_refusals_mean_something")
    }
    rows = re.findall(r"^\| (.+?) \| ", EVIDENCE.read_text(), re.MULTILINE)
    named = {row.partition("[")[0] for row in rows if row not in ("attack", "---")}
    assert named == attacks
    count = re.search(r"^(\d+) attacks\.$", EVIDENCE.read_text(), re.MULTILINE)
    assert count is not None
    assert int(count[1]) == sum(row != "attack" for row in rows)


def test_the_list_of_attacks_on_identity_is_whole() -> None:
    text = EVIDENCE.read_text()
    listed = re.findall(r"^- (.+)$", text, re.MULTILINE)
    assert listed == identity_attacks()
    assert f"{len(listed)} tests hold identity." in text
