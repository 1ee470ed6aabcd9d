"""``edge-fleet verify`` and ``edge-fleet audit …``: for people who trust a root file alone."""

from __future__ import annotations

from datetime import datetime, timezone
from pathlib import Path

import click
import msgspec

from edge_contract.errors import ExitCode
from fleet.cli.repository_options import open_repository
from fleet.cli.terminal import CommandGroup, emit, json_option, state_option, table
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

_trust_option = click.option(
    "--trust",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="The root file that you trust.",
)
_approval_option = click.option(
    "--approval",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Signed metadata of the line (`publish --approval`).",
)


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path, exists=True))
@_trust_option
@_approval_option
@json_option
def verify(bundle: Path, trust: Path, approval: Path | None, as_json: bool) -> None:
    """Check BUNDLE byte for byte and follow its approval up to a root that you trust.

    Needs no manager. Without --approval it looks for approval.json in and beside the bundle.
    """
    import tempfile

    from edge_contract.metadata import METADATA_FILE_LIMIT_BYTES, decode_metadata_set
    from fleet.clock import SystemClock
    from fleet.repository.bundle_intake import opened_bundle, read_model
    from fleet.repository.outsider import verify_approval

    places = [bundle / "approval.json", bundle.parent / "approval.json"]
    found = approval or next((place for place in places if place.is_file()), None)
    if found is None:
        raise FleetError(
            f"no approval in or beside {bundle}",
            hint="--approval FILE; it comes from `edge-fleet publish BUNDLE --approval FILE`",
            exit_code=ExitCode.NOT_FOUND,
        )
    with tempfile.TemporaryDirectory() as scratch, opened_bundle(bundle, Path(scratch)) as opened:
        model, digest = read_model(opened), opened.digest
        blobs = len(opened.descriptors())
    signed = decode_metadata_set(
        found.read_bytes(), where=str(found), limit_bytes=METADATA_FILE_LIMIT_BYTES
    )
    chain = verify_approval(signed, trust.read_bytes(), SystemClock().wall_s())
    if (chain.line, chain.versions.get(model.version)) != (model.name, digest):
        raise FleetError(
            f"{bundle} is {model.name} {model.version} {digest}; the approval is for {chain.line}"
            f" and names {chain.versions.get(model.version, 'no such version')}",
            exit_code=ExitCode.AUTH,
            docs="explanation/trust.md",
        )
    rows = [
        (
            role.role,
            str(role.version),
            f"{len(role.signers)} of {role.threshold} needed",
            ", ".join(role.signers),
            datetime.fromtimestamp(role.expires_s, timezone.utc).strftime("%Y-%m-%d"),
        )
        for role in chain.roles
    ]
    value = {
        "line": model.name,
        "version": model.version,
        "digest": digest,
        "blobs_count": blobs,
        "chain": [msgspec.to_builtins(role) for role in chain.roles],
    }
    text = f"{model.name} {model.version} {digest}\n{blobs} blobs whole; approved by\n"
    head = ("role", "version", "signatures", "signers", "until")
    emit(value, text + table(head, rows), as_json=as_json)


@click.group(cls=CommandGroup)
def audit() -> None:
    """Who did what: the signed log."""


@audit.command("show")
@click.option("--limit", type=click.IntRange(1), default=50, help="The newest so many entries.")
@state_option
@json_option
def show(limit: int, state: StateDir, as_json: bool) -> None:
    """Show the newest entries."""
    from fleet.repository.audit_log import verify_audit

    archive = open_repository(state).archive
    directors = archive.directors(archive.files.read())
    keys = [bytes.fromhex(public) for public in directors.audit_keys]
    entries = verify_audit(archive.audit.read(), keys, [])[-limit:]
    rows = [
        (
            str(item.number),
            datetime.fromtimestamp(item.at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S"),
            item.who,
            item.action,
            item.subject,
            item.detail,
        )
        for item in entries
    ]
    head = ("number", "at (UTC)", "who", "action", "subject", "detail")
    value = [msgspec.to_builtins(item) for item in entries]
    emit(value, table(head, rows) if rows else "nothing yet", as_json=as_json)


@audit.command("verify")
@click.argument("log", type=click.Path(path_type=Path, dir_okay=False, exists=True))
@_trust_option
@click.option(
    "--approval",
    "approvals",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    required=True,
    help="Signed metadata of any line; the newest names the log's end. Repeat for older ones.",
)
@json_option
def verify_log(log: Path, trust: Path, approvals: tuple[Path, ...], as_json: bool) -> None:
    """Check the file LOG: nothing removed, moved, edited or added by a stranger.

    LOG is audit.jsonl of the manager's state directory, or a copy of it.
    """
    from edge_contract.metadata import METADATA_FILE_LIMIT_BYTES, decode_metadata_set
    from fleet.clock import SystemClock
    from fleet.repository.audit_log import verify_audit
    from fleet.repository.outsider import verify_approval

    chains = [
        verify_approval(
            decode_metadata_set(
                path.read_bytes(), where=str(path), limit_bytes=METADATA_FILE_LIMIT_BYTES
            ),
            trust.read_bytes(),
            SystemClock().wall_s(),
        )
        for path in approvals
    ]
    publics = {public for chain in chains for public in chain.directors.audit_keys}
    heads = [chain.audit_head for chain in chains if chain.audit_head]
    entries = verify_audit(log.read_bytes(), [bytes.fromhex(key) for key in publics], heads)
    value = {"entries_count": len(entries), "heads": heads}
    named = max((int(head.partition(":")[0]) for head in heads), default=0)
    text = f"{len(entries)} entries, whole; signed metadata names the end at entry {named}"
    emit(value, text, as_json=as_json)
