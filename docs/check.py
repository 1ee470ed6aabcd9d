"""Fails when the docs and the code have come apart.

Checked: every command and option of the three tools, every configuration key of the agent, every
setting that a fleet may change, every topic class, every hook and every ADR is documented; every
relative link leads somewhere; no page of the docs is unreachable.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

import compiler.cli
import edge_agent.cli
import fleet.cli
from edge_agent.config import AgentConfig
from edge_contract.configuration import SETTINGS
from edge_contract.topics import CLASSES
from firmware_hooks.protocol import RULES

ROOT = Path(__file__).parents[1]
_LINK = re.compile(r"\[[^\]]*\]\(([^)#\s]+)(?:#[^)]*)?\)")


def click_words(command: click.Command, name: str) -> Iterator[str]:
    """Every sub-command and long option below ``command``."""
    yield name
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            yield next(o for o in parameter.opts if o.startswith("--"))
    if isinstance(command, click.Group):
        for child, sub in command.commands.items():
            if not sub.hidden:
                yield from click_words(sub, child)


def argparse_words(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Every sub-command and long option below ``parser``."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, sub in action.choices.items():
                yield name
                yield from argparse_words(sub)
        elif action.option_strings:
            yield action.option_strings[-1]


def config_keys(type_: type[msgspec.Struct], prefix: str = "") -> Iterator[str]:
    """Every key of the configuration file, with its section."""
    for field in msgspec.structs.fields(type_):
        inner = next(
            (
                t
                for t in (field.type, *getattr(field.type, "__args__", ()))
                if isinstance(t, type) and issubclass(t, msgspec.Struct)
            ),
            None,
        )
        if inner is None:
            yield field.name
        else:
            yield f"[{prefix}{field.name}]"
            yield from config_keys(inner, f"{prefix}{field.name}.")


def missing_words(page: str, words: Iterator[str] | list[str]) -> list[str]:
    """What ``page`` does not mention."""
    path = ROOT / page
    text = path.read_text() if path.is_file() else ""
    return [
        f"{page}: {word} is not documented"
        for word in sorted(set(words))
        if not re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", text)
    ]


def broken_links() -> list[str]:
    """Relative links that lead nowhere, and pages that no page links to."""
    pages = [
        page
        for page in sorted(ROOT.rglob("*.md"))
        if not any(
            part.startswith(".") or part == "demo-out" for part in page.relative_to(ROOT).parts
        )
    ]
    found = []
    reached = {ROOT / "README.md"}
    for page in pages:
        for link in _LINK.findall(page.read_text()):
            if "://" in link or link.startswith("mailto:"):
                continue
            target = (page.parent / link).resolve()
            reached |= {target, target / "README.md"}
            if not target.exists():
                found.append(f"{page.relative_to(ROOT)}: the link {link} leads nowhere")
    return found + [
        f"{page.relative_to(ROOT)}: no page links to it" for page in pages if page not in reached
    ]


def main() -> int:
    """Print every finding; returns the exit code."""
    findings = [
        *missing_words("docs/reference/edge-compile.md", click_words(compiler.cli.main, "build")),
        *missing_words("docs/reference/edge-fleet.md", click_words(fleet.cli.main, "up")),
        *missing_words(
            "docs/reference/edge-agent.md", argparse_words(edge_agent.cli.build_parser())
        ),
        *missing_words("docs/reference/edge-agent.md", config_keys(AgentConfig)),
        *missing_words("docs/protocols/mqtt.md", list(CLASSES - {"cmd"})),
        *missing_words("docs/how-to/configure-devices.md", list(SETTINGS)),
        *missing_words("firmware_hooks/PROTOCOL.md", list(RULES)),
        *missing_words("docs/adr/README.md", [p.name for p in (ROOT / "docs/adr").glob("0*.md")]),
        *broken_links(),
    ]
    for finding in findings:
        print(finding)
    if not findings:
        print("docs: every command, option, setting, topic, hook and decision is documented")
    return bool(findings)


if __name__ == "__main__":
    sys.exit(main())
