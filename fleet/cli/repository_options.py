"""What the commands that sign share: the repository, passphrases, and telling an outcome."""

from __future__ import annotations

import getpass
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from edge_contract.errors import ExitCode
from fleet.cli.terminal import emit, say
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

if TYPE_CHECKING:
    from fleet.repository.archive import Outcome
    from fleet.repository.key_files import HeldKey
    from fleet.repository.tuf_repository import Repository

F = TypeVar("F", bound=Callable[..., Any])
PASSPHRASE_VARIABLE = "EDGE_FLEET_PASSPHRASE"  # noqa: S105 - a variable's name
PIN_VARIABLE = "EDGE_FLEET_PIN"

who_option = click.option(
    "--who", default=getpass.getuser, show_default="your user name", help="For the audit."
)
passphrase_option = click.option(
    "--passphrase-file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Its first line is the passphrase (else {PASSPHRASE_VARIABLE}, else it is asked for);"
    f" for a token its PIN (else {PIN_VARIABLE}).",
)
event_option = click.option(
    "--event",
    "event_path",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Where to write the signing event for its signers.",
)


def open_repository(state: StateDir, *, new: bool = False) -> Repository:
    """The repository on disk, with or without a running manager.

    Args:
        state: the state directory.
        new: make the directory where there is none; for commands that may begin a fleet.

    Raises:
        FleetError: no fleet lies there, or it cannot be read.
    """
    from fleet.clock import SystemClock
    from fleet.repository.tuf_repository import Repository

    fleet = state.prepare() if new else state.existing()
    return Repository(state.path, fleet, SystemClock().wall_s)


def read_passphrase(path: Path | None, *, confirm: bool = False) -> str:
    """The passphrase, from a file, the environment or the terminal.

    Raises:
        FleetError: the file cannot be read, or nobody is here to ask.
    """
    if path is not None:
        try:
            return path.read_text().partition("\n")[0]
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not a text"
            raise FleetError(
                f"cannot read {path}: {why}",
                hint="--passphrase-file names a file whose first line is the passphrase",
                exit_code=ExitCode.NOT_FOUND,
            ) from error
    given = os.environ.get(PASSPHRASE_VARIABLE)
    if given is not None:
        return given
    _require_terminal("a passphrase", PASSPHRASE_VARIABLE)
    return str(click.prompt("passphrase", hide_input=True, confirmation_prompt=confirm, err=True))


def read_pin(path: Path | None, token: str) -> str:
    """A token's PIN, from a file, the environment or the terminal.

    Raises:
        FleetError: the file cannot be read, or nobody is here to ask.
    """
    if path is not None:
        return read_passphrase(path)
    # Not the passphrase's variable: a token that is given something else thrice locks itself.
    given = os.environ.get(PIN_VARIABLE)
    if given is not None:
        return given
    _require_terminal(f"the PIN of {token}", PIN_VARIABLE)
    return str(click.prompt(f"PIN of {token}", hide_input=True, err=True))


def require_consent(*, yes: bool) -> None:
    """Ask whether to sign, unless ``yes``.

    Raises:
        FleetError: the answer is no, or nobody is here to ask.
    """
    if yes:
        return
    try:
        if click.confirm("sign this?", err=True):
            return
        why, hint = "the answer was no", ""
    except click.Abort as error:
        if sys.stdin is not None and sys.stdin.isatty():
            raise error
        click.echo(err=True)  # ends the line of the question
        why, hint = "nobody is here to answer", "--yes, after a look at what it changes"
    raise FleetError(f"nothing was signed: {why}", hint=hint)


def _require_terminal(what: str, variable: str) -> None:
    if sys.stdin is None or not sys.stdin.isatty():
        raise FleetError(
            f"expected {what}, and nobody is here to ask: the input is no terminal",
            hint=f"--passphrase-file FILE, or {variable} in the environment",
            exit_code=ExitCode.AUTH,
        )


def open_key(path: Path, passphrase_path: Path | None) -> HeldKey:
    """A key file, whose key is in it or in a token.

    Raises:
        FleetError: it cannot be opened.
    """
    from fleet.repository.key_files import open_key_file, read_token

    token = read_token(path)
    if token is not None:
        return open_key_file(path, read_pin(passphrase_path, str(token)))
    return open_key_file(path, read_passphrase(passphrase_path))


def tell_outcome(
    outcome: Outcome,
    done: str,
    *,
    event_path: Path | None,
    as_json: bool,
    more: Mapping[str, Any] | None = None,
) -> int:
    """Print what became of a proposal; the exit code."""
    from fleet.repository.signing_event import write_event

    if outcome.event is None:
        emit({**(more or {}), "committed": True}, done, as_json=as_json)
        return ExitCode.OK
    path = outcome.path
    if event_path is not None:
        write_event(event_path, outcome.event)
        path = event_path
    waits = [item.sentence() for item in outcome.missing]
    value = {
        **(more or {}),
        "committed": False,
        "event": outcome.event.id,
        "file": str(path),
        "missing": waits,
    }
    text = f"signing event {outcome.event.id} waits:\n" + "\n".join(f"  {item}" for item in waits)
    emit(value, text, as_json=as_json)
    if not as_json:
        say(
            f"next, each signer on a machine of their own: edge-fleet approve {path} --key NAME.key"
        )
        say(f"then here: edge-fleet publish {path}")
    return ExitCode.OK
