"""``edge-fleet line …``: the signed floor of a model line, and versions that are withdrawn."""

from __future__ import annotations

from pathlib import Path

import click

from fleet.cli.repository_options import event_option, open_repository, tell_outcome, who_option
from fleet.cli.terminal import json_option, state_option
from fleet.manager.state_dir import StateDir


@click.group()
def line() -> None:
    """What is approved in a model line."""


@line.command("floor")
@click.argument("name")
@click.argument("version")
@event_option
@who_option
@state_option
@json_option
def floor(
    name: str, version: str, event_path: Path | None, who: str, state: StateDir, as_json: bool
) -> int:
    """Let no device install anything of line NAME below VERSION anew."""
    from fleet.repository.ceremony import Ceremony

    outcome = Ceremony(open_repository(state), who).floor(name, version)
    return tell_outcome(
        outcome, f"{name}: no new install below {version}", event_path=event_path, as_json=as_json
    )


@line.command("retire")
@click.argument("name")
@click.argument("version")
@event_option
@who_option
@state_option
@json_option
def retire(
    name: str, version: str, event_path: Path | None, who: str, state: StateDir, as_json: bool
) -> int:
    """Withdraw the approval of VERSION; devices that run it go on running it."""
    from fleet.repository.ceremony import Ceremony

    outcome = Ceremony(open_repository(state), who).retire(name, version)
    return tell_outcome(
        outcome, f"{name} {version} is retired", event_path=event_path, as_json=as_json
    )
