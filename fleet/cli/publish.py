"""``edge-fleet publish`` and ``edge-fleet root``: they work on the repository on disk, with or
without a running manager, which notices by itself."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.manager.state_dir import StateDir

if TYPE_CHECKING:
    from fleet.repository.tuf_repository import Repository


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option(
    "--approval",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write the line's signed metadata here, for an install without a fleet.",
)
@state_option
@json_option
def publish(bundle: Path, approval: Path | None, state: StateDir, as_json: bool) -> None:
    """Sign BUNDLE (a directory, or a tar of it) into the repository.

    Keys are made on first use: development keys, unencrypted, with a threshold of one.
    """
    repository = _repository(state)
    published = repository.publish(bundle, approval=approval)
    value = {
        "line": published.line,
        "version": published.version,
        "digest": published.digest,
        "already_published": published.already,
        "approval": str(approval) if approval else None,
    }
    how = "is published already as" if published.already else "is published as"
    text = f"{published.line} {published.version} {how} {published.digest}"
    emit(value, text, as_json=as_json)
    if not as_json:
        say(f"note: {repository.keys.warning}")
        say(f"next: edge-fleet rollout start {published.line} {published.version}")


@click.command()
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), help="Write it to a file instead."
)
@state_option
@json_option
def root(out: Path | None, state: StateDir, as_json: bool) -> None:
    """Print the root of trust that a device gets once, by hand (``[trust] root``)."""
    from edge_contract.layout import write_durably

    repository = _repository(state)
    repository.initialise()
    data = repository.root_bytes()
    if out is not None:
        write_durably(out, data)
        text = f"root of trust written to {out}"
        emit({"path": str(out), "root": json.loads(data)}, text, as_json=as_json)
        return
    emit({"root": json.loads(data)}, data.decode(), as_json=as_json)


def _repository(state: StateDir) -> Repository:
    from fleet.clock import SystemClock
    from fleet.repository.tuf_repository import Repository

    return Repository(state.path, state.prepare(), SystemClock().wall_s)
