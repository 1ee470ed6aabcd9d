"""``edge-fleet media …``: the long-lived signatures that offline media carry."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from edge_contract.codec import encode_json
from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably
from fleet.cli.repository_options import (
    open_key,
    open_repository,
    passphrase_option,
    require_consent,
    who_option,
)
from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

if TYPE_CHECKING:
    from fleet.repository.offline_files import OfflineFiles

_file = click.argument("file", type=click.Path(path_type=Path, dir_okay=False))


@click.group(cls=CommandGroup)
def media() -> None:
    """Signatures for media that are carried to devices without a network."""


@media.command("prepare")
@_file
@click.option("--replace", is_flag=True, help="Give up the signatures that are in FILE.")
@state_option
@json_option
def prepare(file: Path, replace: bool, state: StateDir, as_json: bool) -> None:
    """Write to FILE what the holders of the offline roles have to sign: what is approved now."""
    from fleet.repository.media_desk import MediaDesk
    from fleet.repository.offline_files import describe_offline_files

    files = MediaDesk(open_repository(state), "").draft()
    if not replace:
        _require_unsigned(file, files)
    write_durably(file, encode_json(files))
    lines = describe_offline_files(files)
    emit({"file": str(file), "holds": lines}, "\n".join(lines), as_json=as_json)
    if not as_json:
        say(f"next, each holder: edge-fleet media sign {file} --key NAME.key")
        say(f"then here: edge-fleet media publish {file}")


def _require_unsigned(file: Path, draft: OfflineFiles) -> None:
    """What people have signed is theirs to give up; what the keys here sign, a new draft has, too.

    Raises:
        FleetError: the file has signatures that the draft has not, or is no draft of ours at all.
    """
    from fleet.repository.offline_files import read_offline_files

    if not file.exists():
        return
    signed = _signers(read_offline_files(file)) - _signers(draft)
    if signed:
        raise FleetError(
            f"{file} has signatures that a new draft would lose, of {len(signed)} keys",
            hint=f"edge-fleet media sign {file} --key NAME.key, or another FILE;"
            " --replace gives them up",
            exit_code=ExitCode.USAGE,
        )


def _signers(files: OfflineFiles) -> set[str]:
    from fleet.repository.offline_files import parse_offline_files

    return {keyid for role in parse_offline_files(files) for keyid in role.signatures}


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
