"""``edge-fleet broker run``: a broker by itself, for who wants it apart from the manager."""

from __future__ import annotations

import click

from fleet.cli.terminal import json_option, say, state_option
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
    from fleet.cli.terminal import emit

    def ready(process: BrokerProcess) -> None:
        url = f"mqtt://{process.host}:{process.port}"
        value = {"broker": process.kind, "url": url, "pid": process.pid}
        emit(value, f"{process.kind} listens on {url} (process {process.pid})", as_json=as_json)
        say(f"next: edge-fleet up --broker {url}")

    state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    run_in_foreground(kind, mqtt_port, state.broker, ready=ready)
