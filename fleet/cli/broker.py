"""``edge-fleet broker``: run one by itself, or write the settings of a secure one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import click

from edge_contract.errors import ExitCode
from fleet.cli.terminal import emit, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir

KINDS = ("auto", "mosquitto", "embedded")


@click.group()
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
@click.option("--host", default="", help="Address to listen on. [default: every interface]")
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
        Issuers(state.identity, state.prepare()),
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
    )
    complaints = check_settings(path) if check else []
    if complaints:
        raise FleetError(f"mosquitto does not take {path}: {'; '.join(complaints)}")
    text = f"settings written to {path}" + (", and mosquitto takes them" if check else "")
    emit({"config": str(path), "checked": check}, text, as_json=as_json)
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
    """Write the list of revoked certificates where the broker reads it."""
    from fleet.identity.authority import write_public
    from fleet.identity.issuers import Issuers

    issuers = Issuers(state.identity, state.prepare())
    if not issuers.crl_path.exists():
        raise FleetError("this fleet has no CA, so nothing can be revoked")
    write_public(out, issuers.crl_path.read_bytes())
    if pid is not None:
        try:
            os.kill(pid, signal.SIGHUP)
        except OSError as error:
            raise FleetError(
                f"no mosquitto could be told: process {pid}: {error.strerror}",
                exit_code=ExitCode.NOT_FOUND,
            ) from error
    text = f"revocation list written to {out}" + (", mosquitto told" if pid else "")
    emit({"crl": str(out), "told": pid is not None}, text, as_json=as_json)
