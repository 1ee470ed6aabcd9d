"""``edge-fleet configure``: change settings of devices, signed; offline ones get it later."""

from __future__ import annotations

from typing import Any

import click

from edge_contract.configuration import SETTINGS, parse_setting
from edge_contract.errors import ContractError, ExitCode
from fleet.cli.repository_options import who_option
from fleet.cli.terminal import emit, json_option, say, state_option, table
from fleet.errors import FleetError
from fleet.manager.configure_order import ConfigureOrder
from fleet.manager.state_dir import StateDir

_EPILOG = "\n\n".join(
    [
        "Settings:",
        *(
            f"\b\n{name}: {item.form}\n  {item.means}"
            + ("; can only be stricter than the device's own" if item.tightens else "")
            for name, item in SETTINGS.items()
        ),
    ]
)


@click.command(epilog=_EPILOG)
@click.argument("words", nargs=-1, metavar="[DEVICE]... [KEY=VALUE]...")
@click.option("--all", "everything", is_flag=True, help="Every device.")
@click.option("--line", default="", help="Every device of this model line.")
@click.option("--hardware", default="", help="Every device of this hardware.")
@click.option("--unset", multiple=True, metavar="KEY", help="Back to the device's own value.")
@click.option("--dry-run", is_flag=True, help="Show what would change, and change nothing.")
@who_option
@state_option
@json_option
def configure(
    words: tuple[str, ...],
    everything: bool,
    line: str,
    hardware: str,
    unset: tuple[str, ...],
    dry_run: bool,
    who: str,
    state: StateDir,
    as_json: bool,
) -> None:
    """Want settings of DEVICEs, or of --all, a --line, a --hardware.

    The director signs for each device; one that is away gets it when it comes back.
    """
    import msgspec

    from fleet.cli.api_client import ApiClient

    devices = [word for word in words if "=" not in word]
    for name in SETTINGS.keys() & set(devices):
        raise _usage(f"{name}: expected {name}=VALUE, and no value came")
    if bool(devices) == bool(everything or line or hardware):
        raise _usage("name devices, or say --all, --line or --hardware")
    order = ConfigureOrder(
        devices=devices or None,
        line=line,
        hardware=hardware,
        settings=_settings([word for word in words if "=" in word]),
        unset=list(unset),
    )
    body = {"order": msgspec.to_builtins(order), "who": who, "dry_run": dry_run}
    rows = ApiClient(state).post("configurations", body)
    emit(rows, _text(rows), as_json=as_json)
    if not dry_run:
        away = sum(row["changes"] and not row["online"] for row in rows)
        say("next: edge-fleet devices" + (f"; {away} offline get it later" if away else ""))


def _settings(words: list[str]) -> dict[str, str | float]:
    found: dict[str, str | float] = {}
    for word in words:
        name, _, text = word.partition("=")
        if name in found:
            raise _usage(f"{name} is given twice")
        try:
            found[name] = parse_setting(name, text)
        except ContractError as error:
            raise _usage(error.message) from error
    return found


def _text(rows: list[dict[str, Any]]) -> str:
    return table(
        ("device", "wanted before", "wanted now", ""),
        [
            (
                row["device"],
                _pairs(row["before"]),
                _pairs(row["after"]),
                "" if row["changes"] else "unchanged",
            )
            for row in rows
        ],
    )


def _pairs(settings: dict[str, Any]) -> str:
    return " ".join(f"{name}={value}" for name, value in settings.items()) or "-"


def _usage(message: str) -> FleetError:
    return FleetError(
        message,
        hint="edge-fleet configure --help lists settings and bounds",
        exit_code=ExitCode.USAGE,
        docs="how-to/configure-devices.md",
    )
