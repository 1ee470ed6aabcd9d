"""``edge-fleet publish`` and ``edge-fleet root``: they work on the repository on disk, with or
without a running manager, which notices by itself."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import click

from edge_contract.errors import ExitCode
from fleet.cli.repository_options import (
    event_option,
    open_repository,
    tell_outcome,
    who_option,
)
from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--approval",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the line's signed metadata here, for an install without a fleet.",
)
@event_option
@who_option
@state_option
@json_option
def publish(
    bundle: Path,
    approval: Path | None,
    event_path: Path | None,
    who: str,
    state: StateDir,
    as_json: bool,
) -> int:
    """Sign BUNDLE (a directory, or a tar of it) into the repository, or take a signing event back.

    Keys are made on first use: development keys, unencrypted, with a threshold of one. Where
    people hold the keys, this opens a signing event; give the event's signed file here again to
    publish it.
    """
    from fleet.repository.signing_event import is_event

    if is_event(bundle):
        return _take_event(bundle, who, state, as_json)
    _require_bundle(bundle)
    repository = open_repository(state, new=True)
    new = repository.initialise()  # which says it of development keys by itself
    published = repository.publish(bundle, approval=approval, who=who)
    value = {
        "line": published.line,
        "version": published.version,
        "digest": published.digest,
        "already_published": published.already,
        "approval": str(approval) if approval else None,
    }
    how = "is published already as" if published.already else "is published as"
    text = f"{published.line} {published.version} {how} {published.digest}"
    code = tell_outcome(published.outcome, text, event_path=event_path, as_json=as_json, more=value)
    if not as_json and published.outcome.committed:
        for warning in [] if new else repository.warnings():
            say(f"note: {warning}")
        say(f"next: edge-fleet rollout start {published.line} {published.version}")
    return code


def _require_bundle(path: Path) -> None:
    """A mistyped path must not make the keys of a new fleet.

    Raises:
        FleetError: nothing that could be a bundle is there; says where one is.
    """
    if tarfile.is_tarfile(path) if path.is_file() else (path / "index.json").is_file():
        return
    inside = path / "bundle"
    raise FleetError(
        f"expected a bundle, a directory with index.json or a tar of one; {path}"
        f" {'is none' if path.exists() else 'does not exist'}",
        hint=f"edge-fleet publish {inside}"
        if (inside / "index.json").is_file()
        else "a bundle is the directory `bundle/` that `edge-compile build` writes",
        exit_code=ExitCode.NOT_FOUND,
    )


def _take_event(path: Path, who: str, state: StateDir, as_json: bool) -> int:
    from fleet.repository.ceremony import Ceremony
    from fleet.repository.signing_event import read_event

    event = read_event(path)
    outcome = Ceremony(open_repository(state), who).submit(event)
    done = f"{event.id}: published; {event.reason}"
    code = tell_outcome(outcome, done, event_path=None, as_json=as_json, more={"id": event.id})
    return code if outcome.committed else ExitCode.AUTH


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file instead."
)
@state_option
@json_option
def root(out: Path | None, state: StateDir, as_json: bool) -> None:
    """Print the root of trust that a device gets once, by hand (``[trust] root``)."""
    from edge_contract.layout import write_durably

    repository = open_repository(state)
    repository.initialise()
    data = repository.root_bytes()
    if out is not None:
        write_durably(out, data)
        text = f"root of trust written to {out}"
        emit({"path": str(out), "root": json.loads(data)}, text, as_json=as_json)
        return
    emit({"root": json.loads(data)}, data.decode(), as_json=as_json)
