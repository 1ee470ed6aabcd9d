"""``edge-fleet approve``: what a key holder runs, on a machine that is not the manager's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import click

from edge_contract.errors import ExitCode
from fleet.cli.repository_options import open_key, passphrase_option, require_consent
from fleet.cli.terminal import emit, json_option, say
from fleet.errors import FleetError


def signer_dir(environment: Mapping[str, str]) -> Path:
    """``wherry/signer`` below the XDG state home: what this signer has seen so far."""
    home = environment.get("XDG_STATE_HOME", "")
    base = Path(home) if home.startswith("/") else Path.home() / ".local" / "state"
    return base / "wherry" / "signer"


@click.command()
@click.argument("event", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--key", type=click.Path(path_type=Path), help="Your NAME.key.")
@click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False),
    help="The fleet's root file, the first time.",
)
@click.option(
    "--bundle",
    type=click.Path(path_type=Path),
    help="Your own copy of the bundle: refused unless it is the one that is approved.",
)
@click.option("--yes", is_flag=True, help="Sign without asking.")
@click.option(
    "--memory",
    type=click.Path(path_type=Path, file_okay=False),
    default=lambda: signer_dir(os.environ),
    show_default="~/.local/state/wherry/signer",
    help="What this signer has seen so far.",
)
@passphrase_option
@json_option
def approve(
    event: Path,
    key: Path | None,
    trust: Path | None,
    bundle: Path | None,
    yes: bool,
    memory: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """Show what the signing event EVENT changes, and add a signature to its file.

    Without --key it only shows. Anything beside the change that the event is for is refused.
    """
    from fleet.clock import SystemClock
    from fleet.repository.signer_desk import SignerDesk
    from fleet.repository.signing_event import read_event, write_event

    asked = read_event(event)
    desk = SignerDesk(memory, SystemClock().wall_s())
    review = desk.review(asked, trust=trust.read_bytes() if trust else None)
    asked_for = f"{asked.purpose} for fleet {asked.fleet}, asked by {asked.asked_by}"
    lines = [_plain(f"{asked_for}: {asked.reason}")]
    lines += [f"  {_plain(change.text)}" for change in review.changes]
    lines += [f"  seen by others only: {_plain(text)}" for text in review.skipped]
    if bundle is not None:
        lines.append(f"  the bundle {bundle} is the one: {_require_bundle(bundle, review.changes)}")
    changes = [change.text for change in review.changes]
    value = {"event": asked.id, "changes": changes, "signed": [], "file": str(event)}
    if key is None:
        emit(value, "\n".join(lines), as_json=as_json)
        return
    say("\n".join(lines))
    require_consent(yes=yes)
    signed, roles = desk.sign(review, open_key(key, passphrase_file))
    write_event(event, signed)
    emit({**value, "signed": roles}, f"signed {', '.join(roles)} in {event}", as_json=as_json)
    if not as_json:
        say(f"next, at the manager: edge-fleet publish {event}; it says whose signatures it lacks")


def _plain(text: str) -> str:
    """A stranger's words on one line, without what would move the cursor or turn the text round:
    what is shown is what gets signed."""
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


def _require_bundle(path: Path, changes: tuple[object, ...]) -> str:
    from edge_contract.layout import BundleDir

    bundle = BundleDir(path)
    bundle.verify()
    if not any(f"APPROVED: {bundle.digest}" in str(change) for change in changes):
        raise FleetError(
            f"{path} is {bundle.digest}, which this event does not approve",
            hint="do not sign it",
            exit_code=ExitCode.AUTH,
        )
    return bundle.digest
