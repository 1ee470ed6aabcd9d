"""``edge-fleet command``: ask one device for something, signed, once."""

from __future__ import annotations

from urllib.parse import quote

import click

from fleet.cli.repository_options import who_option
from fleet.cli.terminal import emit, json_option, state_option
from fleet.manager.state_dir import StateDir


@click.command()
@click.argument("device")
@click.argument("name", type=click.Choice(["report"]))
@who_option
@state_option
@json_option
def command(device: str, name: str, who: str, state: StateDir, as_json: bool) -> None:
    """Send DEVICE a signed command, which counts once and for an hour: report (its state, now)."""
    from fleet.cli.api_client import ApiClient

    path = f"devices/{quote(device, safe='')}/commands/{name}"
    ApiClient(state).post(path, {"who": who})
    emit({"device": device, "command": name}, f"{device}: asked to {name}", as_json=as_json)
