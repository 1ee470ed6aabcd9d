"""``edge-fleet install-service``: the manager as a hardened systemd service."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from device_configs.service.account import prepare_directories, require_open
from device_configs.service.install import check_unit, install_unit, remove_unit, require_root
from device_configs.service.unit import FLEET_MEMORY_MB, Service, render
from edge_contract.errors import ExitCode
from fleet.cli.terminal import emit, json_option, say
from fleet.errors import FleetError
from fleet.manager.broker_address import parse_broker_address

NAME = "edge-fleet"


@click.command("install-service")
@click.option(
    "--fleet",
    default="",
    help="The fleet's name. [default: the one it has, or home]",
)
@click.option("--broker", default="auto", help="As of `edge-fleet up`.")
@click.option("--console-port", type=click.IntRange(1, 65535), default=8470)
@click.option(
    "--state",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("/var/lib/wherry-fleet"),
    help="The fleet's directory.",
)
@click.option("--user", default="", help="Run as this account. [default: one of its own]")
@click.option("--memory-max-mb", type=int, default=FLEET_MEMORY_MB)
@click.option("--dry-run", is_flag=True, help="Print the unit, change nothing.")
@click.option("--remove", is_flag=True, help="Take the service out again; its state stays.")
@click.option("--no-start", is_flag=True, help="Write the unit only.")
@json_option
def install_service(
    fleet: str,
    broker: str,
    console_port: int,
    state: Path,
    user: str,
    memory_max_mb: int,
    dry_run: bool,
    remove: bool,
    no_start: bool,
    as_json: bool,
) -> int:
    """Run `edge-fleet up` at every boot, under systemd."""
    if remove:
        if dry_run:
            say(f"would stop and remove the service {NAME}; its state would stay")
        else:
            remove_unit(NAME, say=say)
        return ExitCode.OK
    if "://" in broker:
        parse_broker_address(broker)
    options = ["--broker", broker, "--console-port", str(console_port)]
    if fleet:
        options += ["--fleet", fleet]
    odd = [word for word in options if not word.isprintable() or set(word) & set(" %$\"'\\;{}")]
    if odd:
        raise FleetError(
            f"{odd[0]!r} cannot stand in a unit: expected no spaces, quotes, '%', '$' and the like",
            exit_code=ExitCode.USAGE,
        )
    service = Service(
        name=NAME,
        program=Path(sys.executable).with_name("edge-fleet").absolute(),
        state_dir=state.absolute(),
        memory_max_mb=memory_max_mb,
        user=user,
        options=tuple(options),
    )
    text = render(NAME, service)
    check_unit(NAME, text)
    if dry_run:
        emit({"name": NAME, "unit": text}, text.rstrip(), as_json=as_json)
        return ExitCode.OK
    require_root()
    if user:
        prepare_directories(user, [service.state_dir])
    else:
        require_open([service.program])
    path = install_unit(NAME, text, start=not no_start, say=say)
    emit(
        {"name": NAME, "path": str(path)},
        f"next: systemctl status {NAME}; edge-fleet doctor --state {state}",
        as_json=as_json,
    )
    return ExitCode.OK
