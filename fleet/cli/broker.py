"""``edge-fleet broker``: run one by itself, or write the settings of a secure one."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import click

from edge_contract.errors import ExitCode
from fleet.cli.terminal import CommandGroup, emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

KINDS = ("auto", "mosquitto", "embedded")
_RELOAD_S = 1.0
"""mosquitto looks whether it was told ten times a second."""
_OTHERWISE = "run `edge-fleet broker cut` once the manager runs, or restart the broker"
_WEBSOCKETS = (
    "mosquitto 2.0 reads no revocation list for WebSockets: there revoked names are shut out by"
    " the access list, but the old key of a replaced device, and what a distrusted issuer signed,"
    " get in until they expire. Where they can, let devices use TCP on 443 instead: --port 443"
)


_TELL_IT = '--reload "$(pidof mosquitto)", or restart it; until then it takes the list of before'


@click.group(cls=CommandGroup)
def broker() -> None:
    """The MQTT broker as a process of its own."""


@broker.command("run")
@click.option("--kind", type=click.Choice(KINDS), default="auto", help="Which broker.")
@click.option("--mqtt-port", type=click.IntRange(1, 65535), default=1883, help="TCP port.")
@state_option
@json_option
def broker_run(kind: str, mqtt_port: int, state: StateDir, as_json: bool) -> None:
    """Run a broker on the loopback until SIGINT or SIGTERM.

    ``auto`` takes mosquitto where it is installed and the embedded broker where it is not.
    """
    from fleet.broker.process import BrokerProcess, run_in_foreground

    def ready(process: BrokerProcess) -> None:
        url = f"mqtt://{process.host}:{process.port}"
        value = {"broker": process.kind, "url": url, "pid": process.pid}
        emit(value, f"{process.kind} listens on {url} (process {process.pid})", as_json=as_json)
        say(f"next: edge-fleet up --broker {url}")

    state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_in_foreground(kind, mqtt_port, state.broker, ready=ready)


@broker.command("config")
@click.option(
    "--server",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="What `edge-fleet ca server` wrote.",
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), required=True, help="Where to write."
)
@click.option(
    "--host",
    default="",
    help="Address to listen on. [default: every interface]",
)
@click.option("--port", type=click.IntRange(1, 65535), default=8883, help="Devices, MQTT.")
@click.option("--enroll-port", type=click.IntRange(0, 65535), default=8884, help="0: none.")
@click.option(
    "--websocket-port", type=click.IntRange(0, 65535), default=0, help="Such as 443; 0: none."
)
@click.option("--enroll-websocket-port", type=click.IntRange(0, 65535), default=0, help="0: none.")
@click.option("--user", default="", help="Whom mosquitto becomes when root starts it.")
@click.option("--check", is_flag=True, help="Run mosquitto on it for a moment.")
@state_option
@json_option
def broker_config(
    server: Path,
    out: Path,
    host: str,
    port: int,
    enroll_port: int,
    websocket_port: int,
    enroll_websocket_port: int,
    user: str,
    check: bool,
    state: StateDir,
    as_json: bool,
) -> None:
    """Write mosquitto's settings for devices with certificates."""
    from fleet.identity.issuers import Issuers
    from fleet.identity.mosquitto_settings import Ports, check_settings, write_settings

    path = write_settings(
        Issuers(state.identity, state.existing()),
        server,
        out,
        Ports(
            mqtt=port,
            enroll=enroll_port,
            websocket=websocket_port,
            enroll_websocket=enroll_websocket_port,
            host=host,
        ),
        user=user,
        locked_out=_locked_out(state),
    )
    complaints = check_settings(path) if check else []
    if complaints:
        raise FleetError(f"mosquitto does not take {path}: {'; '.join(complaints)}")
    text = f"settings written to {path}" + (", and mosquitto takes them" if check else "")
    emit({"config": str(path), "checked": check}, text, as_json=as_json)
    if websocket_port:
        say(_WEBSOCKETS)
    say(f"next: mosquitto -c {path}, then edge-fleet up --broker mqtts://{host or 'HOST'}:{port}")


@broker.command("crl")
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="crl.pem."
)
@click.option(
    "--reload",
    "pid",
    type=click.IntRange(2),
    default=None,
    help="Process id of the mosquitto that shall read it (SIGHUP).",
)
@state_option
@json_option
def broker_crl(out: Path, pid: int | None, state: StateDir, as_json: bool) -> None:
    """Write the list of revoked certificates where the broker reads it.

    With --reload the connections that revoked devices still have are cut as well, if the manager
    runs.
    """
    from fleet.identity.issuers import Issuers
    from fleet.identity.mosquitto_settings import write_revocations

    issuers = Issuers(state.identity, state.existing())
    if not issuers.crl_path.exists():
        raise FleetError("this fleet has no CA, so nothing can be revoked")
    write_revocations(issuers, out, _locked_out(state))
    text, cut = f"revocation list written to {out}", None
    if pid is None:
        say("next: make the broker read it (SIGHUP), then edge-fleet broker cut")
    else:
        _require_mosquitto(pid, out)
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            raise FleetError(
                f"no mosquitto could be told: process {pid}: {error.strerror}; the list is written",
                hint=_TELL_IT,
                exit_code=ExitCode.NOT_FOUND,
            ) from error
        time.sleep(_RELOAD_S)
        text += ", mosquitto told"
        try:
            cut = _cut(state)
            text += f"; {_cut_text(cut)}"
        except FleetError as error:
            say(f"connections that stand were not cut: {error}; {_OTHERWISE}")
    emit({"crl": str(out), "told": pid is not None, "cut": cut}, text, as_json=as_json)


@broker.command("cut")
@state_option
@json_option
def broker_cut(state: StateDir, as_json: bool) -> None:
    """End the connections that revoked devices still have, once the broker has read the list."""
    cut = _cut(state)
    emit({"cut": cut}, _cut_text(cut), as_json=as_json)


def _cut(state: StateDir) -> list[str]:
    import getpass

    from fleet.cli.api_client import ApiClient

    answer = ApiClient(state).post("connections/cut", {"who": getpass.getuser()})
    return [str(name) for name in answer["cut"]]


def _cut_text(names: list[str]) -> str:
    if not names:
        return "nobody is locked out, so no connection is cut"
    shown = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return f"connections of {shown} are cut; the manager looks again in two minutes"


def _locked_out(state: StateDir) -> list[str]:
    from fleet.clock import SystemClock
    from fleet.store import identity, open_store

    store = open_store(state.store, fleet=state.existing())
    try:
        with store.read() as tx:
            return identity.locked_out(tx, SystemClock().wall_s())
    finally:
        store.close()


def _require_mosquitto(pid: int, out: Path) -> None:
    """A SIGHUP ends most programs, and the number in an old file may be anybody's by now.

    Raises:
        FleetError: the process is something else.
    """
    try:
        name = Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return  # there is none, as the signal finds out, or no /proc
    if "mosquitto" not in name:
        raise FleetError(
            f"process {pid} is {name!r}, expected mosquitto; it was left alone, and {out} is"
            " written",
            hint=_TELL_IT,
            exit_code=ExitCode.USAGE,
        )
