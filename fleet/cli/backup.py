"""``edge-fleet backup`` and ``edge-fleet restore``."""

from __future__ import annotations

from pathlib import Path

import click

from edge_contract.errors import ExitCode
from fleet.cli.repository_options import (
    open_repository,
    passphrase_option,
    read_passphrase,
    who_option,
)
from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--blobs", is_flag=True, help="Bundles, too; without it they are published again.")
@passphrase_option
@who_option
@state_option
@json_option
def backup(
    file: Path,
    blobs: bool,
    passphrase_file: Path | None,
    who: str,
    state: StateDir,
    as_json: bool,
) -> None:
    """Write keys, signed metadata, store and audit log to FILE, sealed with a passphrase.

    A manager may run meanwhile.
    """
    from fleet.repository.backup import make_backup

    archive = open_repository(state).archive
    passphrase = read_passphrase(passphrase_file, confirm=True)
    with archive.exclusive():
        archive.record(who, "backup", file.name, "with blobs" if blobs else "without blobs")
        size_bytes = make_backup(state.path, file, passphrase, blobs=blobs)
    value = {"file": str(file), "size_bytes": size_bytes}
    emit(value, f"backup of {size_bytes} bytes written to {file}", as_json=as_json)


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@passphrase_option
@who_option
@state_option
@json_option
def restore(
    file: Path, passphrase_file: Path | None, who: str, state: StateDir, as_json: bool
) -> None:
    """Bring back a backup into an empty state directory.

    Rollouts that were under way are paused: devices may have gone on since.
    """
    from fleet.clock import SystemClock
    from fleet.manager.after_restore import stand_still
    from fleet.repository.backup import restore_backup
    from fleet.store import open_store

    if state.is_locked():
        raise FleetError(
            f"a manager runs on {state.path}", hint="stop it first", exit_code=ExitCode.USAGE
        )
    paused: list[str] = []

    def settle(unpacked: Path) -> None:
        found = StateDir(unpacked)
        if not found.store.exists():
            return
        store = open_store(found.store, fleet=found.prepare())
        try:
            paused.extend(stand_still(store, who=who, now_s=SystemClock().wall_s()))
        finally:
            store.close()

    names = restore_backup(file, state.path, read_passphrase(passphrase_file), settle=settle)
    value = {"restored": names, "paused": paused}
    emit(value, f"restored into {state.path}: {', '.join(names)}", as_json=as_json)
    if not as_json:
        for rollout in paused:
            say(f"paused: {rollout}; look before edge-fleet rollout resume {rollout}")
        say("next: edge-fleet key leap, so that devices which saw newer versions listen again")
