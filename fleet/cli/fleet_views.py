"""``edge-fleet devices`` and ``edge-fleet drift``."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import Any
from urllib.parse import quote

import click
from click.core import ParameterSource

from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option, table
from fleet.manager.state_dir import StateDir
from fleet.views.skew import agent_skew


class _DevicesGroup(CommandGroup):
    """``devices NAME`` shows a device; a word that is no order of ours is a name."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            args = ["show", *args]
        # `devices --state DIR NAME` must not ask another fleet than `devices NAME --state DIR`.
        carried: list[str] = []
        if ctx.get_parameter_source("state") is ParameterSource.COMMANDLINE:
            carried += ["--state", str(ctx.params["state"].path)]
        if ctx.params.get("as_json"):
            carried.append("--json")
        return super().resolve_command(ctx, [args[0], *carried, *args[1:]])


@click.group(cls=_DevicesGroup, invoke_without_command=True)
@state_option
@json_option
@click.pass_context
def devices(context: click.Context, state: StateDir, as_json: bool) -> None:
    """List every enrolled device, show all about one, or remove, replace, revoke one."""
    if context.invoked_subcommand is None:
        _show("", state, as_json=as_json)


@devices.command("show")
@click.argument("device")
@state_option
@json_option
def devices_show(device: str, state: StateDir, as_json: bool) -> None:
    """Show all about DEVICE; `devices DEVICE` is the same."""
    _show(device, state, as_json=as_json)


def _tell_the_broker(state: StateDir, what: str) -> None:
    if (state.identity / "ca.crt.pem").exists():  # without a CA it lets in everybody
        say(
            f"next, so that the broker {what}: edge-fleet broker crl --out FILE --reload PID,"
            " where FILE is the broker's crl.pem"
        )


@devices.command("remove")
@click.argument("device")
@click.option("--reason", default="", help="For log and audit.")
@state_option
@json_option
def devices_remove(device: str, reason: str, state: StateDir, as_json: bool) -> None:
    """Forget DEVICE, revoke it, and clear what the broker retains for it."""
    _order(device, "remove", {"reason": reason}, f"{device} is removed", state, as_json=as_json)
    _tell_the_broker(state, "refuses it, too, and the connection that it has is cut")


@devices.command("revoke")
@click.argument("device")
@click.option("--reason", required=True, help="For log and audit.")
@state_option
@json_option
def devices_revoke(device: str, reason: str, state: StateDir, as_json: bool) -> None:
    """Hear DEVICE no more: its key, and every certificate that it was given."""
    _order(device, "revoke", {"reason": reason}, f"{device} is revoked", state, as_json=as_json)
    _tell_the_broker(state, "refuses it, too, and the connection that it has is cut")


@devices.command("replace")
@click.argument("device")
@click.option("--reason", default="", help="For log and audit.")
@click.option("--expires", default="1h", help="The code's life: seconds, or 30m, 8h, 7d.")
@state_option
@json_option
def devices_replace(device: str, reason: str, expires: str, state: StateDir, as_json: bool) -> None:
    """Print a one-time code that gives new hardware DEVICE's name."""
    from fleet.cli.enroll import read_expires_s

    body = {"reason": reason, "expires_s": read_expires_s(expires)}
    _order(device, "replace", body, "", state, as_json=as_json)
    say("the old key counts until the code is used; revoke it first if it is in wrong hands")
    _tell_the_broker(state, "refuses the old key, too (once the code is used)")


def _order(
    device: str, what: str, body: dict[str, Any], text: str, state: StateDir, *, as_json: bool
) -> None:
    import getpass

    from fleet.cli.api_client import ApiClient

    path = f"devices/{quote(device, safe='')}/{what}"
    answer = ApiClient(state).post(path, {"who": getpass.getuser(), **body})
    emit(answer, text or str(answer["code"]), as_json=as_json)


def _show(device: str, state: StateDir, *, as_json: bool) -> None:
    from fleet.cli.api_client import ApiClient

    api = ApiClient(state)
    if device:
        detail = api.get(f"devices/{quote(device, safe='')}")
        emit(detail, _device_text(detail), as_json=as_json)
        return
    rows = api.get("devices")
    emit(rows, _devices_text(rows), as_json=as_json)


@click.command()
@click.argument("device", default="")
@state_option
@json_option
def drift(device: str, state: StateDir, as_json: bool) -> None:
    """Show drift alarms, and each feature's distance from the bundle's reference."""
    from fleet.cli.api_client import ApiClient

    rows = ApiClient(state).get("drift", device=device)
    emit(rows, "\n".join(map(_drift_text, rows)) or _NO_DRIFT, as_json=as_json)


_NO_DRIFT = "no device has said what it runs yet; next: edge-fleet devices"


def _devices_text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no device has enrolled yet; next: edge-agent run --config FILE on a device"
    head = ("device", "state", "hardware", "line", "version", "ordered", "p95 ms", "alarms", "seen")
    listed = table(
        head,
        [
            (
                row["device"],
                row["state"] + ("" if row["online"] or row["state"] == "offline" else ", offline"),
                row["hardware"],
                row["line"],
                row["version"] or "-",
                row["desired_version"] or "-",
                _ms(row["latency_p95_ms"]),
                str(row["alarms_count"]),
                _when(row["last_seen_at_s"]),
            )
            for row in rows
        ],
    )
    return "\n".join([listed, *_skew_lines(Counter(row["agent_version"] for row in rows))])


def _skew_lines(agents: Counter[str]) -> list[str]:
    """Agents of another release than these tools."""
    return [
        f"agent {version} on {count} of the devices: {agent_skew(version)}"
        for version, count in sorted(agents.items())
        if agent_skew(version)
    ]


def _device_text(detail: dict[str, Any]) -> str:
    device = detail["device"]
    version = device["agent_version"]
    skew = agent_skew(version)
    facts = {
        "device": f"{device['device']} ({device['hardware']}, {device['state']})",
        "runs": _runs(device),
        "ordered": device["desired_version"] or "(nothing)",
        "update": device["update_phase"] or "none",
        "agent": " ".join(filter(None, (version, skew and f"({skew})"))),
        "key": detail["key_fingerprint"],
        "committed": ", ".join(f"{n} {cls}" for cls, n in sorted(detail["committed"].items())),
        "repeats": str(detail["duplicates_count"]),
    }
    lines = [f"{name + ':':11}{value}" for name, value in facts.items()]
    lines += _settings_lines(device["configuration"])
    lines += [f"alarm:     {_when(a['ts'])} {a['text']}" for a in detail["alarms"][:5]]
    lines += [
        f"finding:   {f['count']} x {f['kind']} ({f['cls']}), last {_when(f['last_at_s'])}:"
        f" {f['detail']}"
        for f in detail["findings"]
    ]
    lines += [f"{_when(e['ts'])} {e['name']}: {e['text']}" for e in reversed(detail["events"][:10])]
    return "\n".join(lines)


def _runs(device: dict[str, Any]) -> str:
    what = f"{device['line']} {device['version'] or '(nothing)'}"
    if device["update_phase"] == "trial":
        # The active slot is the other one, until the commit.
        kept = f"; slot {device['slot']} keeps what ran before" if device["slot"] else ""
        return f"{what} on trial{kept}"
    return f"{what} in slot {device['slot']}" if device["slot"] else what


def _settings_lines(view: dict[str, Any]) -> list[str]:
    """Every setting that the device has or the fleet wants."""
    lines = []
    for name in sorted({*view["wanted"], *view["has"]}):
        wanted, has = view["wanted"].get(name), view["has"].get(name, "?")
        wish = "" if wanted is None else f", wanted {wanted}"
        limit = " (its own limit is stricter)" if name in view["limited"] else ""
        lines.append(f"setting:   {name} {has}{wish}{limit}")
    if view["status"] in ("waiting", "refused"):
        why = view["reason"] or "the device has not taken it yet"
        lines.append(f"settings:  {view['status']}: {why}")
    return lines


def _drift_text(row: dict[str, Any]) -> str:
    lines = [
        f"{row['device']} on {row['line']} {row['version']}:"
        f" {row['samples']} samples in {row['windows']} windows"
        + (f" ({row['problem']})" if row["problem"] else "")
    ]
    lines += [
        f"  alarm {_when(a['ts'])}: {a['text']}"
        + (f" (began {_when(a['onset_ts'])})" if a["onset_ts"] else "")
        for a in row["alarms"]
    ]
    worst = sorted(row["features"], key=lambda feature: -feature["psi"])
    lines += [
        f"  {f['feature']:24} PSI {f['psi']:6.3f}  KS {f['ks']:5.3f}  {f['verdict']}" for f in worst
    ]
    return "\n".join(lines)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _when(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, timezone.utc).strftime("%Y-%m-%d %H:%M:%S UTC")
