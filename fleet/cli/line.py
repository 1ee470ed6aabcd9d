"""``edge-fleet line …``: what is approved in the model lines, floors, and what is withdrawn."""

from __future__ import annotations

import click

from fleet.cli.proposal import Proposal, proposing
from fleet.cli.repository_options import open_repository
from fleet.cli.terminal import CommandGroup, emit, for_this_fleet, json_option, state_option, table
from fleet.manager.state_dir import StateDir


@click.group(cls=CommandGroup)
def line() -> None:
    """What is approved in a model line."""


@line.command("list")
@state_option
@json_option
def list_(state: StateDir, as_json: bool) -> None:
    """List every approved version, its digest, and the line's floor."""
    repository = open_repository(state)
    value = [
        {
            "line": item.line,
            "version": item.version,
            "digest": item.digest,
            "floor": repository.floor(item.line),
        }
        for item in repository.published()
    ]
    head = ("line", "version", "digest", "floor")
    rows = [tuple(row[name] or "-" for name in head) for row in value]
    none = for_this_fleet("nothing is published yet; next: edge-fleet publish BUNDLE")
    emit(value, table(head, rows) if rows else none, as_json=as_json)


@line.command("floor")
@click.argument("name")
@click.argument("version")
@click.option("--yes", is_flag=True, help="Also above every approved version: no new installs.")
@proposing
def floor(change: Proposal, name: str, version: str, yes: bool) -> int:
    """Let no device install anything of line NAME below VERSION anew."""
    outcome = change.ceremony().floor(name, version, above_all=yes)
    return change.tell(outcome, f"{name}: no new install below {version}")


@line.command("retire")
@click.argument("name")
@click.argument("version")
@proposing
def retire(change: Proposal, name: str, version: str) -> int:
    """Withdraw the approval of VERSION; devices that run it go on running it."""
    outcome = change.ceremony().retire(name, version)
    return change.tell(outcome, f"{name} {version} is retired")
