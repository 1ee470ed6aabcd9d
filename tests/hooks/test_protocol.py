"""``PROTOCOL.md`` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import firmware_hooks
from edge_agent.update.effects import Notice
from edge_agent.update.events import Ordered
from edge_agent.update.moves import HOOK_OF
from firmware_hooks.protocol import HOOK_API, RULES, VERSION_DIR, WORDS
from tests.update.bundles import make_version
from tests.update.device import Clock, Device

TEXT = (Path(firmware_hooks.__file__).parent / "PROTOCOL.md").read_text()


def test_every_hook_stands_in_the_table_with_its_time_out_and_defaults() -> None:
    for rule in RULES.values():
        row = (
            f"| `{rule.name}` | {rule.when} | {rule.timeout_s:.0f} s | {rule.missing} |"
            f" {rule.on_timeout} | {rule.refuse_means} |"
        )
        assert row in TEXT


def test_every_hook_that_the_update_machine_asks_is_in_the_protocol() -> None:
    told = get_args(Notice)
    assert sorted([*HOOK_OF.values(), *told]) == sorted(RULES)
    assert set(WORDS) == {"ok", "refuse", "later"}
    assert f"/{VERSION_DIR}/" in TEXT
    assert f"`WHERRY_HOOK_API` | `{HOOK_API}`" in TEXT


def test_every_fact_that_a_hook_is_told_is_documented(tmp_path: Path) -> None:
    version = make_version("1.0.0")
    device = Device(tmp_path, {version.digest: version}, Clock()).boot()
    device.manager.handle(Ordered(version.order(1)))
    device.settle()
    seen = [*device.hook_facts, *device.told]
    assert [facts["STATE"] for facts in seen] == [*HOOK_OF.values(), "post-commit"]
    documented = set(re.findall(r"`WHERRY_([A-Z_]+)` \|", TEXT)) - {"HOOK_API"}
    for facts in seen:
        assert set(facts) == documented
        assert (facts["SLOT"], facts["VERSION"], facts["OLD_VERSION"]) == ("A", "1.0.0", "")
        assert facts["SLOT_DIR"] == str(tmp_path / "slots" / "A" / "files")
