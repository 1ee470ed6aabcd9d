"""``PROTOCOL.md`` says what the code does."""

from __future__ import annotations

import re
from pathlib import Path

import firmware_hooks
from edge_agent.update.moves import HOOK_OF
from firmware_hooks.protocol import HOOK_API, RULES, VERSION_DIR, WORDS

TEXT = (Path(firmware_hooks.__file__).parent / "PROTOCOL.md").read_text()


def test_every_hook_stands_in_the_table_with_its_time_out_and_defaults() -> None:
    for rule in RULES.values():
        row = (
            f"| `{rule.name}` | {rule.when} | {rule.timeout_s:.0f} s | {rule.missing} |"
            f" {rule.on_timeout} | {rule.refuse_means} |"
        )
        assert row in TEXT


def test_every_hook_that_the_update_machine_asks_is_in_the_protocol() -> None:
    assert sorted(HOOK_OF.values()) == sorted(RULES)
    assert set(WORDS) == {"ok", "refuse", "later"}
    assert f"/{VERSION_DIR}/" in TEXT
    assert f"`WHERRY_HOOK_API` | `{HOOK_API}`" in TEXT


def test_every_fact_that_a_hook_is_told_is_documented() -> None:
    import inspect

    from edge_agent.update.executor import Executor

    told = set(re.findall(r'"([A-Z_]+)":', inspect.getsource(Executor._facts)))
    documented = set(re.findall(r"`WHERRY_([A-Z_]+)` \|", TEXT)) - {"HOOK_API"}
    assert told == documented
