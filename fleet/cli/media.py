"""``edge-fleet media …``: the long-lived signatures that offline media carry."""

from __future__ import annotations

from pathlib import Path

import click

from edge_contract.codec import encode_json
from edge_contract.layout import write_durably
from fleet.cli.repository_options import (
    open_key,
    open_repository,
    passphrase_option,
    require_consent,
    who_option,
)
from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option
from fleet.manager.state_dir import StateDir

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group(cls=CommandGroup)
def media() -> None:
    """Signatures for media that are carried to devices without a network."""


@media.command("prepare")
@_file
@state_option
@json_option
def prepare(file: Path, state: StateDir, as_json: bool) -> None:
    """Write to FILE what the holders of the offline roles have to sign: what is approved now."""
    from fleet.repository.media_desk import MediaDesk
    from fleet.repository.offline_files import describe_offline_files

    files = MediaDesk(open_repository(state), "").draft()
    write_durably(file, encode_json(files))
    lines = describe_offline_files(files)
    emit({"file": str(file), "holds": lines}, "\n".join(lines), as_json=as_json)
    if not as_json:
        say(f"next, each holder: edge-fleet media sign {file} --key NAME.key")
        say(f"then here: edge-fleet media publish {file}")


@media.command("sign")
@_file
@click.option("--key", type=click.Path(path_type=Path), required=True, help="Your NAME.key.")
@click.option("--yes", is_flag=True, help="Sign without asking.")
@passphrase_option
@json_option
def sign(file: Path, key: Path, yes: bool, passphrase_file: Path | None, as_json: bool) -> None:
    """Show what FILE stands for, and add a signature to it."""
    from fleet.clock import SystemClock
    from fleet.repository.offline_files import (
        describe_offline_files,
        read_offline_files,
        sign_offline_files,
    )

    files = read_offline_files(file)
    say("\n".join(describe_offline_files(files)))
    require_consent(yes=yes)
    held = open_key(key, passphrase_file)
    signed = sign_offline_files(files, held, now_s=SystemClock().wall_s())
    write_durably(file, encode_json(signed))
    emit({"file": str(file), "signer": held.owner}, f"signed by {held.owner}", as_json=as_json)


@media.command("publish")
@_file
@who_option
@state_option
@json_option
def publish(file: Path, who: str, state: StateDir, as_json: bool) -> None:
    """Keep the signed FILE; media that are written from now on carry it."""
    from fleet.repository.media_desk import MediaDesk
    from fleet.repository.offline_files import read_offline_files

    MediaDesk(open_repository(state), who).take(read_offline_files(file))
    emit({"file": str(file)}, "the offline roles are signed", as_json=as_json)
