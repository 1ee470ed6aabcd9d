"""``edge-fleet line …``: the signed floor of a model line, and versions that are withdrawn."""

from __future__ import annotations

import click

from fleet.cli.proposal import Proposal, proposing


@click.group()
def line() -> None:
    """What is approved in a model line."""


@line.command("floor")
@click.argument("name")
@click.argument("version")
@proposing
def floor(change: Proposal, name: str, version: str) -> int:
    """Let no device install anything of line NAME below VERSION anew."""
    outcome = change.ceremony().floor(name, version)
    return change.tell(outcome, f"{name}: no new install below {version}")


@line.command("retire")
@click.argument("name")
@click.argument("version")
@proposing
def retire(change: Proposal, name: str, version: str) -> int:
    """Withdraw the approval of VERSION; devices that run it go on running it."""
    outcome = change.ceremony().retire(name, version)
    return change.tell(outcome, f"{name} {version} is retired")
