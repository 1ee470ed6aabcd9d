"""``edge-fleet export`` and ``import-receipts``: for devices that no network reaches."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from edge_contract.errors import ContractError, ExitCode
from edge_contract.health import HealthSpec
from edge_contract.receipt import Receipt
from fleet.cli.repository_options import open_repository, who_option
from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.rollout_order import HEALTH_OPTIONS
from fleet.manager.state_dir import StateDir

_BODY_BYTES = 700_000
"""Of messages in one body; the API takes a megabyte."""

F = TypeVar("F", bound=Callable[..., Any])


def _health_options(command: F) -> F:
    """Every setting of the health spec; one left out keeps its default."""
    for field, (option, text) in reversed(HEALTH_OPTIONS.items()):
        kind = type(getattr(HealthSpec(), field))
        command = click.option(option, field, type=kind, help=f"Trial: {text}.")(command)
    return command


@click.command()
@click.argument("line")
@click.argument("version")
@click.option(
    "--usb",
    "directory",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    required=True,
    help="Where the medium is mounted.",
)
@click.option("--devices", default="", help="Who may install it: names joined by commas.")
@click.option("--all", "everything", is_flag=True, help="Every device of LINE but the revoked.")
@click.option(
    "--status",
    "statuses",
    type=click.Path(path_type=Path, dir_okay=False),
    multiple=True,
    help="What `edge-agent status --json` said on a device that was never online, and that may"
    " install it, too. May be repeated.",
)
@_health_options
@who_option
@state_option
@json_option
def export(
    line: str,
    version: str,
    directory: Path,
    devices: str,
    everything: bool,
    statuses: tuple[Path, ...],
    who: str,
    state: StateDir,
    as_json: bool,
    **limits: Any,
) -> None:
    """Write VERSION of LINE to a medium, for a set of devices.

    The medium carries the bundle, the offline signatures and an order that names the devices.
    """
    from edge_contract.codec import DOCUMENT_LIMIT_BYTES
    from edge_contract.digest import hex_of
    from edge_contract.media import MediaDevice
    from edge_contract.signing import fingerprint
    from fleet.repository.media_desk import MediaDesk
    from fleet.store import open_store
    from fleet.store.devices import get_device, list_devices
    from fleet.store.identity import all_revoked_keys
    from fleet.transfer.media_devices import read_status
    from fleet.transfer.usb import write_medium

    try:
        health = HealthSpec(**{k: v for k, v in limits.items() if v is not None})
    except ContractError as error:
        raise FleetError(error.message, hint=error.hint, exit_code=ExitCode.USAGE) from error
    repository = open_repository(state)
    published = repository.find(line, version)
    wanted = list(dict.fromkeys(name.strip() for name in devices.split(",") if name.strip()))
    strangers = [read_status(path, fleet=repository.archive.fleet, line=line) for path in statuses]
    if (wanted and everything) or not (wanted or everything or strangers):
        raise FleetError(
            f"expected --all, --devices with names joined by commas, or --status; got {devices!r}"
            + (" and --all" if everything else ""),
            hint="edge-fleet devices",
            exit_code=ExitCode.USAGE,
        )
    store = open_store(state.store, fleet=state.existing())
    try:
        with store.read() as tx:
            if everything:
                revoked = all_revoked_keys(tx)
                found = (row for row in list_devices(tx) if row.line == line)
                wanted = [row.device for row in found if row.public_key not in revoked]
            names = [*wanted, *(stranger.device for stranger in strangers)]
            rows = {name: get_device(tx, name) for name in names}
    finally:
        store.close()
    if not rows:
        raise FleetError(
            f"no device of line {line} is enrolled",
            hint="edge-fleet devices",
            exit_code=ExitCode.NOT_FOUND,
        )
    named = []
    for name in wanted:
        row = rows[name]
        if row is None:
            raise FleetError(
                f"{name} is not enrolled, so its key is not known here",
                hint="edge-fleet devices; for one that was never online, on the device:"
                f" edge-agent status --json > {name}.json, and here: --status {name}.json",
                exit_code=ExitCode.NOT_FOUND,
            )
        if row.line != line:
            raise FleetError(
                f"{name} is of line {row.line}",
                hint="edge-fleet devices",
                exit_code=ExitCode.NOT_FOUND,
            )
        key = fingerprint(bytes.fromhex(row.public_key))
        named.append(MediaDevice(device=name, device_key=key, hardware=row.hardware))
    for stranger in strangers:
        row = rows[stranger.device]
        if row is not None and fingerprint(bytes.fromhex(row.public_key)) != stranger.device_key:
            raise FleetError(
                f"{stranger.device} is enrolled with another key than its status tells",
                hint=f"edge-fleet devices {stranger.device}; new hardware: edge-fleet devices"
                f" replace {stranger.device}",
                exit_code=ExitCode.AUTH,
            )
        if stranger not in named:
            named.append(stranger)
    target = directory / f"wherry-{line}-{version}"
    path = repository.blob_path(published.digest)
    with path.open("rb") as file:
        manifest_bytes = file.read(DOCUMENT_LIMIT_BYTES)
    size_bytes = write_medium(
        target,
        media=lambda: MediaDesk(repository, who).media_set(
            line,
            version,
            named,
            rollout=f"media-{hex_of(published.digest)[:12]}",
            health=health,
        ),
        manifest_bytes=manifest_bytes,
        manifest=repository.manifest(published.digest),
        version=version,
        blob_path=repository.blob_path,
    )
    value = {"medium": str(target), "devices": [item.device for item in named], "bytes": size_bytes}
    count = f"{len(named)} device{'s' if len(named) > 1 else ''}"
    text = f"{line} {version} for {count} written to {target}: {size_bytes:,} bytes"
    emit(value, text, as_json=as_json)
    say(
        f"next, on each device: edge-agent apply {target};"
        f" then here: edge-fleet import-receipts {directory}"
    )


def _parts(receipts: Sequence[Receipt]) -> Iterator[list[dict[str, str]]]:
    """The messages for the manager's API, in bodies that it takes."""
    part: list[dict[str, str]] = []
    part_bytes = 0
    for receipt in receipts:
        for message in receipt.messages:
            payload = base64.b64encode(message.payload).decode()
            part_bytes += len(payload) + len(message.topic) + len(message.signature) + 64
            if part and part_bytes > _BODY_BYTES:
                yield part
                part, part_bytes = [], len(payload)
            part.append(
                {"topic": message.topic, "payload": payload, "signature": message.signature}
            )
    if part:
        yield part


@click.command("import-receipts")
@click.argument("directory", type=click.Path(path_type=Path, file_okay=False))
@state_option
@json_option
def import_receipts(directory: Path, state: StateDir, as_json: bool) -> int:
    """Take in what devices wrote to the medium in DIRECTORY; twice does no harm.

    Every message is checked against the key of the device that it is of. Exits with 4 when one, or
    a file that is no receipt, was refused; the others count.
    """
    from fleet.cli.api_client import ApiClient
    from fleet.transfer.usb import read_receipts

    found = read_receipts(directory)
    api = ApiClient(state)
    taken = Counter({"new_count": 0, "known_count": 0, "refused_count": 0})
    for messages in _parts(found.receipts):
        taken.update(api.post("receipts", {"messages": messages}))
    text = (
        f"{len(found.receipts)} receipts: {taken['new_count']} steps new,"
        f" {taken['known_count']} known already, {taken['refused_count']} refused"
    )
    emit({**taken, "files_refused": found.refused}, text, as_json=as_json)
    for sentence in found.refused:
        say(f"refused: {sentence}")
    if taken["refused_count"] or found.refused:
        say("try: edge-fleet doctor")
        return ExitCode.AUTH
    return ExitCode.OK
