"""``edge-fleet doctor``: is everything there, and does it answer?"""

from __future__ import annotations

import shutil
from typing import Any

import click

from edge_contract.errors import ExitCode, WherryError
from fleet.cli.terminal import emit, for_this_fleet, json_option, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

_FREE_BYTES_MIN = 200_000_000


@click.command()
@state_option
@json_option
def doctor(state: StateDir, as_json: bool) -> int:
    """Check the state directory, the manager, its broker, what ingest refused, and what people have
    to sign before it runs out.

    Exits with 0 when all is well, 7 when no manager or no broker answers, 1 otherwise.
    """
    checks = [_broker_programs(), _disk(state), *_manager(state), *_reminders(state)]
    failed = [check for check in checks if not check["ok"]]
    lines = []
    for check in checks:
        lines.append(f"{'ok  ' if check['ok'] else 'FAIL'} {check['check']}: {check['text']}")
        if check["hint"]:
            lines.append(f"     try: {check['hint']}")
    emit({"ok": not failed, "checks": checks}, "\n".join(lines), as_json=as_json)
    if any(check["check"] in ("manager", "broker") for check in failed):
        return ExitCode.NETWORK
    return ExitCode.FAILURE if failed else ExitCode.OK


def _check(name: str, ok: bool, text: str, hint: str = "") -> dict[str, Any]:
    return {"check": name, "ok": ok, "text": text, "hint": "" if ok else for_this_fleet(hint)}


def _broker_programs() -> dict[str, Any]:
    from fleet.broker.process import choose

    try:
        return _check("broker program", True, f"{choose('auto')} is here")
    except FleetError as error:
        return _check("broker program", False, error.message, error.hint)


def _disk(state: StateDir) -> dict[str, Any]:
    if not state.path.is_dir():
        return _check("state directory", False, f"{state.path} does not exist yet", "edge-fleet up")
    free_bytes = shutil.disk_usage(state.path).free
    text = f"{state.path}, {free_bytes / 1e9:.1f} GB free"
    return _check("state directory", free_bytes >= _FREE_BYTES_MIN, text, "free some space")


def _manager(state: StateDir) -> list[dict[str, Any]]:
    from fleet.cli.api_client import ApiClient

    try:
        health = ApiClient(state).get("health")
    except FleetError as error:
        return [_check("manager", False, error.message, error.hint)]
    lag = f"{health['queue_count']} messages waiting"
    checks = [
        _check(
            "manager",
            True,
            f"fleet {health['fleet']}, {health['online_count']} of {health['devices_count']}"
            f" devices online, {health['records_count']} records, {lag}",
        ),
        _check(
            "broker",
            health["connected"],
            health["broker"] if health["connected"] else health["problem"] or "not connected",
            "start it: edge-fleet broker run, or look at its log",
        ),
    ]
    if health["connected"] and health["problem"]:
        checks.append(_check("trouble", False, health["problem"], "look at the manager's log"))
    if health["findings_count"]:
        text = f"{health['findings_count']} messages were refused by ingest"
        checks.append(_check("refused messages", True, text))
    return checks


def _reminders(state: StateDir) -> list[dict[str, Any]]:
    """Read from the disk: a manager that stands still reminds nobody."""
    from fleet.cli.repository_options import open_repository
    from fleet.identity.issuers import Issuers
    from fleet.manager.reminders import reminders_due
    from fleet.repository.key_status import key_status

    if not (state.path / "tuf").is_dir():
        return []
    try:
        archive = open_repository(state).archive
        issuers = Issuers(state.identity, archive.fleet)
        due = reminders_due(key_status(archive), issuers, archive.clock())
    except WherryError as error:
        return [_check("signatures", False, error.message, error.hint)]
    if not due:
        return [_check("signatures", True, "nothing has to be signed by people soon")]
    return [_check("signatures", False, item.text, item.command) for item in due]
