"""``edge-fleet event …``: the signing events that wait."""

from __future__ import annotations

import click

from fleet.cli.repository_options import open_repository, who_option
from fleet.cli.terminal import CommandGroup, emit, json_option, state_option, table
from fleet.manager.state_dir import StateDir


@click.group(cls=CommandGroup)
def event() -> None:
    """Signing events that wait for signatures."""


@event.command("list")
@state_option
@json_option
def list_(state: StateDir, as_json: bool) -> None:
    """List the open events and what they wait for."""
    archive = open_repository(state).archive
    base = archive.files.read()
    rows = []
    for item in archive.events.all():
        missing = archive.signer.missing(item.draft(), base)
        waits = "; ".join(lack.sentence() for lack in missing)
        rows.append((item.id, item.purpose, item.asked_by, waits or "publish"))
    head = ("event", "purpose", "asked by", "waits for")
    value = [dict(zip(("id", "purpose", "asked_by", "missing"), row, strict=True)) for row in rows]
    where = archive.state_dir / "signing"
    text = f"{table(head, rows)}\nfiles: {where}" if rows else "no signing event is open"
    emit(value, text, as_json=as_json)


@event.command("cancel")
@click.argument("name")
@who_option
@state_option
@json_option
def cancel(name: str, who: str, state: StateDir, as_json: bool) -> None:
    """Drop the open event NAME; nothing of it counts."""
    from fleet.repository.ceremony import Ceremony

    Ceremony(open_repository(state), who).cancel(name)
    emit({"cancelled": name}, f"{name}: cancelled", as_json=as_json)
