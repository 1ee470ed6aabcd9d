"""The committed table names every attack of this folder, and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

from tests.attacks.conftest import EVIDENCE, identity_attacks

CHANGELOG = EVIDENCE.parents[2] / "CHANGELOG.md"


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
    told = re.search(r"a suite of\s+(\d+)\s+attacks", CHANGELOG.read_text())
    assert told is not None
    assert told[1] == count[1]


def test_the_list_of_attacks_on_identity_is_whole() -> None:
    text = EVIDENCE.read_text()
    listed = re.findall(r"^- (.+)$", text, re.MULTILINE)
    assert listed == identity_attacks()
    assert f"{len(listed)} tests hold identity." in text


def test_the_threat_model_names_tests_that_exist() -> None:
    root = Path(__file__).parents[2]
    pages = [root / "docs" / "threat-model.md", *(root / "docs" / "threat-model").glob("*.md")]
    named = set(
        re.findall(r"`(test_\w+\*?|tests/[\w/]+\.py)`", "".join(p.read_text() for p in pages))
    )
    code = "".join(path.read_text() for path in (root / "tests").rglob("test_*.py"))
    missing = [
        name
        for name in named
        if not (
            (root / name).exists()
            if "/" in name
            else f"def {name.rstrip('*')}{'' if name.endswith('*') else '('}" in code
        )
    ]
    assert len(named) > 60
    assert sorted(missing) == []
