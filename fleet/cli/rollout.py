"""``edge-fleet rollout …``."""

from __future__ import annotations

import getpass
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any, TypeVar
from urllib.parse import quote

import click

from edge_contract.errors import ExitCode, WherryError
from edge_contract.health import HealthSpec
from fleet.cli.terminal import (
    CommandGroup,
    emit,
    for_this_fleet,
    json_option,
    say,
    state_option,
    table,
)
from fleet.errors import FleetError
from fleet.manager.rollout_order import (
    GATE_OPTIONS,
    HEALTH_OPTIONS,
    RolloutOrder,
    gate_option,
    parse_waves,
)
from fleet.manager.state_dir import StateDir
from fleet.rollout.gate import parse_gate

_POLL_S = 0.3
_TELL_EVERY_S = 1.0
"""A wait never tells more often than this, however fast devices go on."""
_STILL_HERE_S = 15.0
"""And never less often, however slow they are."""
_ENDS = {"completed": ExitCode.OK, "aborted": ExitCode.ABORTED, "rolled_back": ExitCode.ABORTED}
F = TypeVar("F", bound=Callable[..., Any])


def _limit_options(command: F) -> F:
    """Every setting of the gate and of the health spec; one left out keeps its default."""
    for field, (option, text) in reversed(HEALTH_OPTIONS.items()):
        kind = type(getattr(HealthSpec(), field))
        command = click.option(option, field, type=kind, help=f"Trial: {text}.")(command)
    for field, text in reversed(GATE_OPTIONS.items()):
        command = click.option(gate_option(field), field, help=f"Gate: {text}.")(command)
    return command


_who_option = click.option(
    "--who", default=getpass.getuser, show_default="your user name", help="For the audit."
)


@click.group(cls=CommandGroup)
def rollout() -> None:
    """Bring a version to devices, wave by wave."""


@rollout.command("start")
@click.argument("line")
@click.argument("version")
@click.option(
    "--waves", default="1,100%", help='"1%,10%,100%" of the fleet, or "1,5,100%" devices.'
)
@_limit_options
@click.option("--device", "devices", multiple=True, help="Only this device; repeat for several.")
@click.option(
    "--on-abort",
    type=click.Choice(["halt", "return"]),
    default="halt",
    help="What an abort by a gate does with devices that committed.",
)
@click.option(
    "--window",
    default="",
    help="Hours to install in, UTC, such as 02:00-05:00.",
)
@click.option(
    "--seed",
    default="",
    show_default="the rollout's id",
    help="Draws the order.",
)
@click.option("--dry-run", is_flag=True, help="Show the plan and change nothing.")
@click.option("--wait", is_flag=True, help="Wait for its end: exit 0, 6 aborted, 5 insufficient.")
@click.option("--timeout-s", type=float, default=3600.0, help="How long to wait.")
@_who_option
@state_option
@json_option
def rollout_start(
    line: str,
    version: str,
    waves: str,
    devices: tuple[str, ...],
    on_abort: str,
    window: str,
    seed: str,
    dry_run: bool,
    wait: bool,
    timeout_s: float,
    who: str,
    state: StateDir,
    as_json: bool,
    **limits: Any,
) -> int:
    """Roll VERSION of model line LINE out."""
    import msgspec

    from fleet.cli.api_client import ApiClient

    given = {name: value for name, value in limits.items() if value is not None}
    try:
        gate = parse_gate({f: _with_unit(f, given[f]) for f in GATE_OPTIONS if f in given})
        health = HealthSpec(**{name: given[name] for name in HEALTH_OPTIONS if name in given})
    except WherryError as error:
        raise FleetError(error.message, hint=error.hint, exit_code=ExitCode.USAGE) from error
    shares, counts = parse_waves(waves)
    order = RolloutOrder(
        line=line,
        version=version,
        shares=shares,
        counts=counts,
        gate=gate,
        health=health,
        devices=list(devices) or None,
        on_abort="return" if on_abort == "return" else "halt",
        seed=seed,
        window=window,
    )
    api = ApiClient(state)
    body = {"order": msgspec.to_builtins(order), "who": who}
    if dry_run:
        plan = api.post("rollouts/plan", body)
        emit(plan, f"{plan['text']}\n  at most {plan['bytes_total']:,} bytes", as_json=as_json)
        return ExitCode.OK
    view = api.post("rollouts", body)
    if wait:
        return _wait(api, view, timeout_s, as_json=as_json)
    emit(_json(view), _rollout_text(view), as_json=as_json)
    say(f"next: edge-fleet rollout status {view['id']}")
    return ExitCode.OK


@rollout.command("status")
@click.argument("rollout_id", metavar="ID", default="")
@click.option("--wait", is_flag=True, help="Wait for its end: exit 0, 6 aborted, 5 insufficient.")
@click.option("--timeout-s", type=float, default=3600.0, help="How long to wait.")
@state_option
@json_option
def rollout_status(
    rollout_id: str, wait: bool, timeout_s: float, state: StateDir, as_json: bool
) -> int:
    """Show all rollouts, or one with its devices and log."""
    from fleet.cli.api_client import ApiClient

    api = ApiClient(state)
    if not rollout_id:
        rows = api.get("rollouts")
        emit([_json(row) for row in rows], _rollouts_text(rows), as_json=as_json)
        return ExitCode.OK
    detail = api.get(f"rollouts/{quote(rollout_id, safe='')}")
    if wait:
        return _wait(api, detail["rollout"], timeout_s, as_json=as_json)
    value = {**_json(detail["rollout"]), **{k: v for k, v in detail.items() if k != "rollout"}}
    emit(value, _detail_text(detail), as_json=as_json)
    return ExitCode.OK


@rollout.command("pause")
@click.argument("rollout_id", metavar="ID")
@click.option("--reason", default="", help="For the log.")
@_who_option
@state_option
@json_option
def rollout_pause(rollout_id: str, **options: Any) -> None:
    """Ask nobody new; devices already asked go on."""
    _press(rollout_id, "pause", **options)


@rollout.command("resume")
@click.argument("rollout_id", metavar="ID")
@click.option("--acknowledge", "flag", is_flag=True, help="Failures seen so far count no more.")
@_who_option
@state_option
@json_option
def rollout_resume(rollout_id: str, **options: Any) -> None:
    """Go on after a pause."""
    _press(rollout_id, "resume", **options)


@rollout.command("abort")
@click.argument("rollout_id", metavar="ID")
@click.option("--reason", required=True, help="For the log.")
@_who_option
@state_option
@json_option
def rollout_abort(rollout_id: str, **options: Any) -> None:
    """Halt for good: ask nobody, withdraw what is not committed. This is no roll-back."""
    _press(rollout_id, "abort", **options)


@rollout.command("rollback")
@click.argument("rollout_id", metavar="ID")
@click.option("--reason", default="", help="For the log.")
@_who_option
@state_option
@json_option
def rollout_rollback(rollout_id: str, **options: Any) -> None:
    """Halt, and return every device on the new version to what it ran before."""
    _press(rollout_id, "rollback", **options)


@rollout.command("promote")
@click.argument("rollout_id", metavar="ID")
@click.option("--all", "flag", is_flag=True, help="Open all waves that are left.")
@click.option("--reason", default="", help="For the log.")
@_who_option
@state_option
@json_option
def rollout_promote(rollout_id: str, **options: Any) -> None:
    """Pass the open wave without its quorum."""
    _press(rollout_id, "promote", **options)


@rollout.command("exclude")
@click.argument("rollout_id", metavar="ID")
@click.argument("devices", nargs=-1, required=True)
@click.option("--reason", default="", help="For the log.")
@_who_option
@state_option
@json_option
def rollout_exclude(rollout_id: str, **options: Any) -> None:
    """Take DEVICES out of the rollout and out of its counts."""
    _press(rollout_id, "exclude", **options)


def _with_unit(field: str, text: str) -> str:
    """Options named ``…-s`` are in seconds where no unit is given; the gate itself wants one."""
    return f"{text}s" if field.endswith("_s") and text[-1:].isdigit() else text


def _press(
    rollout_id: str,
    command: str,
    *,
    who: str,
    state: StateDir,
    as_json: bool,
    reason: str = "",
    flag: bool = False,
    devices: tuple[str, ...] = (),
) -> None:
    from fleet.cli.api_client import ApiClient

    body = {"who": who, "reason": reason, "flag": flag, "devices": list(devices)}
    view = ApiClient(state).post(f"rollouts/{quote(rollout_id, safe='')}/{command}", body)
    emit(_json(view), _rollout_text(view), as_json=as_json)


def _wait(api: Any, view: dict[str, Any], timeout_s: float, *, as_json: bool) -> int:
    """Follow a rollout to its end and print what it came to."""
    try:
        return _follow(api, view, timeout_s, as_json=as_json)
    except KeyboardInterrupt:
        say(f"the rollout goes on; next: edge-fleet rollout status {view['id']} --wait")
        raise


def _follow(api: Any, view: dict[str, Any], timeout_s: float, *, as_json: bool) -> int:
    began_s = told_at_s = time.monotonic()
    until_s = began_s + timeout_s
    told, steps_told, steps = "", "", ""
    while True:
        waited_s = time.monotonic() - told_at_s
        if view["sentence"] != told:
            told, told_at_s = view["sentence"], time.monotonic()
            say(f"{view['id']}: {told}")
        elif (steps != steps_told and waited_s >= _TELL_EVERY_S) or waited_s >= _STILL_HERE_S:
            steps_told, told_at_s = steps, time.monotonic()
            say(f"{view['id']}: after {told_at_s - began_s:.0f} s: {steps or view['status']}")
        code = _ENDS.get(view["status"])
        if view["status"] == "paused" and view["outcome"] == "insufficient":
            code = ExitCode.GATE
        if code is not None:
            emit(_json(view), _rollout_text(view), as_json=as_json)
            return code
        if time.monotonic() > until_s:
            raise FleetError(
                f"rollout {view['id']} is still {view['status']} after {timeout_s:g} s: {told}",
                hint=f"edge-fleet rollout status {view['id']} --wait",
                exit_code=ExitCode.NETWORK,
            )
        time.sleep(_POLL_S)
        detail = api.get(f"rollouts/{view['id']}")
        view, steps = detail["rollout"], _steps(detail["devices"])


def _steps(devices: list[dict[str, Any]]) -> str:
    """How many devices are at which step, such as "2 downloading, 5 committed of 7"."""
    counts = Counter(str(device["phase"]).replace("_", " ") for device in devices)
    told = ", ".join(f"{count} {phase}" for phase, count in counts.items())
    return f"{told} of {len(devices)}" if told else ""


def _json(view: dict[str, Any]) -> dict[str, Any]:
    """The view with ``reason``, the one word that all our reports use for why."""
    return {**view, "reason": view["sentence"]}


def _rollout_text(view: dict[str, Any]) -> str:
    return f"{view['id']} {view['status']}: {view['sentence']}"


def _rollouts_text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return for_this_fleet("no rollout yet; next: edge-fleet rollout start LINE VERSION")
    head = ("id", "from", "to", "status", "wave", "committed", "failed", "why")
    return table(
        head,
        [
            (
                row["id"],
                ",".join(row["from_versions"]) or "-",
                row["version"],
                row["status"],
                f"{row['wave']}/{len(row['waves'])}",
                f"{row['committed_count']}/{row['device_count']}",
                str(row["failed_count"]),
                row["sentence"],
            )
            for row in rows
        ],
    )


def _detail_text(detail: dict[str, Any]) -> str:
    view = detail["rollout"]
    lines = [_rollout_text(view), *_window_lines(view)]
    for wave in view["waves"]:
        counts = ", ".join(
            f"{wave[name]} {name.replace('_', ' ')}"
            for name in ("committed", "in_flight", "waiting", "offline", "held", "failed", "out")
            if wave[name]
        )
        lines.append(
            f"  wave {wave['wave']} {wave['state']}: {counts or 'nobody'}; passes with"
            f" {wave['successes_needed']}, aborts above {wave['failures_limit']} failed"
        )
    for group in detail["failures"]:
        names = ", ".join(group["devices"][:5])
        lines.append(
            f"  {len(group['devices'])} {group['hardware']} {group['step']}:"
            f" {group['reason']} ({names})"
        )
    lines += [f"  not {item['device']}: {item['why']}" for item in detail["ineligible"]]
    rows = [
        (d["device"], str(d["wave"]), d["phase"], d["version_from"] or "-", _why(d))
        for d in detail["devices"]
    ]
    lines += [table(("device", "wave", "phase", "from", "reason"), rows)]
    lines += [line["text"] for line in detail["log"][-20:]]
    return "\n".join(lines)


def _window_lines(view: dict[str, Any]) -> list[str]:
    if not view["window"]:
        return []
    opens = f", opens {_utc(view['opens_at_s'])}" if view["opens_at_s"] else ", open now"
    return [f"  installs only {view['window']} UTC{opens}; deadlines count only these hours"]


def _why(device: dict[str, Any]) -> str:
    if not device["waits_for"]:
        return str(device["reason"])
    opens = f" (next {_utc(device['opens_at_s'])})" if device["opens_at_s"] else ""
    return f"waits: {device['waits_for']}{opens}"


def _utc(at_s: float) -> str:
    return datetime.fromtimestamp(at_s, timezone.utc).strftime("%Y-%m-%d %H:%M UTC")
