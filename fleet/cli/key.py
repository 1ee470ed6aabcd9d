"""``edge-fleet key …``: the keys of the ceremony, and what the repository says of them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click
import msgspec

from edge_contract.errors import ExitCode
from fleet.cli.proposal import Proposal, proposing
from fleet.cli.repository_options import (
    open_key,
    open_repository,
    passphrase_option,
    read_passphrase,
    read_pin,
    who_option,
)
from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option, table
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

if TYPE_CHECKING:
    from fleet.repository.key_files import PublicKeyFile

_dir_option = click.option(
    "--dir",
    "directory",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    show_default="here",
    help="The folder of the key files.",
)
_key_option = click.option(
    "--key",
    "keys",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A public key (NAME.pub); repeat for several.",
)
_threshold_option = click.option(
    "--threshold", type=click.IntRange(1), help="How many of them have to sign."
)


@click.group(cls=CommandGroup)
def key() -> None:
    """Make keys, say which of them count for what, and see when signatures expire."""


@key.command("new")
@click.argument("name")
@_dir_option
@click.option(
    "--token",
    metavar="URI",
    help="Make the key in a token, where it stays: pkcs11:token=LABEL (RFC 7512).",
)
@click.option(
    "--kind",
    type=click.Choice(["ed25519", "ecdsa-p256", "ecdsa-p384"]),
    default="ed25519",
    show_default=True,
    help="What the token makes; the others are for tokens without Ed25519.",
)
@click.option(
    "--existing", is_flag=True, help="Take the token's key that id= or object= of the URI names."
)
@passphrase_option
@json_option
def new(
    name: str,
    directory: Path,
    token: str | None,
    kind: str,
    existing: bool,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Make NAME.key, protected by a passphrase or in a token, and NAME.pub, to hand out."""
    from fleet.repository.key_files import new_key_file, new_key_path, write_token_key_file
    from fleet.repository.token_keys import find_token_key, make_token_key
    from fleet.repository.token_uri import TokenUri

    new_key_path(directory, name)
    if token is None:
        if existing or kind != "ed25519":
            raise FleetError(
                "--existing and --kind are for keys in a token",
                hint=f"edge-fleet key new {name} --token pkcs11:token=LABEL",
                exit_code=ExitCode.USAGE,
            )
        public = new_key_file(directory, name, read_passphrase(passphrase_file, confirm=True))
        advice = f"keep {name}.key and its passphrase apart"
    else:
        place = TokenUri.parse(token)
        pin = read_pin(passphrase_file, str(place))
        if existing:
            place, made = find_token_key(place, pin)
        else:
            place, made = make_token_key(place, name, pin, kind)
        public = write_token_key_file(directory, name, place, made)
        advice = f"{name}.key says where in the token the key is, and holds no secret"
    value = {"name": name, "keyid": public.keyid, "public": str(directory / f"{name}.pub")}
    emit(value, f"{name}  {public.keyid}", as_json=as_json)
    if not as_json:
        say(f"hand out {directory / f'{name}.pub'}; {advice}")


@key.command("list")
@_dir_option
@json_option
def list_(directory: Path, as_json: bool) -> None:
    """List the key files of a folder."""
    from fleet.repository.key_files import read_key_owner, read_token

    rows = [
        (*read_key_owner(path), str(read_token(path) or ""), path.name)
        for path in sorted(directory.glob("*.key"))
    ]
    value = [
        {"name": owner, "keyid": keyid, "token": token, "file": name}
        for owner, keyid, token, name in rows
    ]
    head = ("name", "key id", "token", "file")
    text = table(head, rows) if rows else f"no key files in {directory}"
    emit(value, text, as_json=as_json)


@key.command("show")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@json_option
def show(file: Path, as_json: bool) -> None:
    """Show whose key FILE (NAME.key or NAME.pub) is. Nothing secret is printed."""
    from fleet.repository.key_files import read_key_owner, read_public_key, read_token

    token = None
    if file.suffix == ".pub":
        public = read_public_key(file)
        owner, keyid = public.owner, public.keyid
    else:
        owner, keyid = read_key_owner(file)
        token = read_token(file)
    value = {"name": owner, "keyid": keyid, "token": str(token or "")}
    emit(value, f"{owner}  {keyid}" + (f"  in {token}" if token else ""), as_json=as_json)


@key.command("export-public")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True)
@passphrase_option
@json_option
def export_public(file: Path, out: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """Write the public half of FILE (NAME.key) anew."""
    from fleet.repository.key_files import write_public_key

    held = open_key(file, passphrase_file)
    write_public_key(out, held.public)
    value = {"name": held.owner, "keyid": held.public.keyid, "path": str(out)}
    emit(value, f"public key of {held.owner} written to {out}", as_json=as_json)


@key.command("adopt")
@_key_option
@_threshold_option
@proposing
def adopt(change: Proposal, keys: tuple[Path, ...], threshold: int | None) -> int:
    """Go from development keys to keys that people hold: every offline role, in one event."""
    from fleet.repository.key_files import read_public_key

    publics = _distinct([read_public_key(path) for path in keys])
    if not publics:
        raise FleetError(
            "whose keys shall count?",
            hint="edge-fleet key adopt --key alice.pub --key bob.pub --threshold 2",
            exit_code=ExitCode.USAGE,
        )
    count = threshold or max(1, len(publics) - 1)
    open_repository(change.state, new=True).initialise()
    outcome = change.ceremony().adopt(publics, count)
    return change.tell(outcome, "adopted")


@key.command("rotate")
@click.argument("role")
@_key_option
@_threshold_option
@proposing
def rotate(change: Proposal, role: str, keys: tuple[Path, ...], threshold: int | None) -> int:
    """Replace all keys of ROLE: root, targets, line-NAME, offline-snapshot, offline-timestamp; or
    snapshot, timestamp, director, audit, whose new key the manager makes itself."""
    from fleet.repository.key_files import read_public_key

    publics = _distinct([read_public_key(path) for path in keys])
    outcome = change.ceremony().rotate(role, publics, threshold)
    return change.tell(outcome, f"{role}: rotated")


def _distinct(publics: list[PublicKeyFile]) -> list[PublicKeyFile]:
    """The keys; the same one twice would count once and make the threshold a lie."""
    seen: set[str] = set()
    for public in publics:
        if public.keyid in seen:
            raise FleetError(
                f"the key of {public.owner!r} ({public.keyid[:12]}) is given twice",
                hint="name every person's NAME.pub once",
                exit_code=ExitCode.USAGE,
            )
        seen.add(public.keyid)
    return publics


@key.command("revoke")
@click.argument("keyid")
@click.option(
    "--replace-with",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The key (NAME.pub) that takes its place.",
)
@proposing
def revoke(change: Proposal, keyid: str, replace_with: Path | None) -> int:
    """Take the key KEYID (its beginning suffices) out of every role that names it."""
    from fleet.repository.key_files import read_public_key

    replacement = read_public_key(replace_with) if replace_with else None
    outcome = change.ceremony().revoke(keyid, replacement)
    return change.tell(outcome, f"{keyid}: revoked")


@key.command("renew")
@proposing
def renew(change: Proposal) -> int:
    """Sign every offline role anew before its signatures expire, with nothing else changed."""
    return change.tell(change.ceremony().renew(), "renewed")


@key.command("epoch")
@proposing
def epoch(change: Proposal) -> int:
    """Begin the next epoch: all orders of this one are void, their numbers begin again."""
    return change.tell(change.ceremony().raise_epoch(), "a new epoch has begun")


@key.command("leap")
@proposing
def leap(change: Proposal) -> int:
    """After restoring an old backup: take version numbers beyond all that devices can have seen."""
    return change.tell(change.ceremony().leap(), "leapt ahead")


@key.command("forget")
@who_option
@state_option
@json_option
def forget(who: str, state: StateDir, as_json: bool) -> None:
    """Remove private keys of this manager that no signed metadata names any more."""
    from fleet.repository.ceremony import Ceremony

    gone = Ceremony(open_repository(state), who).forget_revoked()
    text = "\n".join(f"removed {name}" for name in gone) or "nothing to remove"
    emit({"removed": gone}, text, as_json=as_json)


@key.command("status")
@state_option
@json_option
def status(state: StateDir, as_json: bool) -> int:
    """Show whose keys count for what, what expires when, and the next command.

    Exit code 5 when something has to be signed soon.
    """
    from fleet.repository.key_status import key_status, local_date

    repository = open_repository(state)
    rows = key_status(repository.archive)
    due = [row for row in rows if row.action]
    head = ("role", "needs", "of", "expires", "days left", "next")
    cells = [
        (
            row.role,
            str(row.threshold),
            ", ".join(f"{o} {k[:8]}" for o, k in zip(row.owners, row.keyids, strict=True)),
            local_date(row.expires_s),
            f"{row.left_days:.0f}",
            row.action,
        )
        for row in rows
    ]
    emit([msgspec.to_builtins(row) for row in rows], table(head, cells), as_json=as_json)
    if not as_json:
        for warning in repository.warnings():
            say(f"note: {warning}")
            say("next: edge-fleet key adopt (docs/how-to/ceremony.md)")
        sys.stdout.flush()
    return ExitCode.GATE if due else ExitCode.OK
