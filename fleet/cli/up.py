"""``edge-fleet up``: broker, manager, API and console in one go, until SIGINT or SIGTERM."""

from __future__ import annotations

import getpass
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import click

from device_configs.service.notify import ProgressWatchdog, Systemd
from edge_contract.errors import ExitCode
from fleet.cli.broker import KINDS
from fleet.cli.terminal import emit, for_this_fleet, json_option, say, state_option
from fleet.errors import FleetError
from fleet.manager.broker_address import BrokerAddress, parse_broker_address
from fleet.manager.state_dir import ApiAddress, StateDir

if TYPE_CHECKING:
    from fleet.broker.process import BrokerProcess
    from fleet.manager.loop import Manager

_POLL_S = 0.2
_BACK_OFF_MAX_S = 30.0
_STEADY_S = 60.0
"""A broker that ran that long before it died is started again without waiting."""


@click.command()
@click.option(
    "--fleet",
    default="",
    help="The fleet's name. [default: the one it has, or home]",
)
@click.option(
    "--broker",
    default="auto",
    help="auto, mosquitto or embedded to run one here; mqtt://host:port"
    " (mqtts, ws or wss, too) to use one that runs.",
)
@click.option(
    "--mqtt-port", type=click.IntRange(1, 65535), default=1883, help="Of the broker here."
)
@click.option("--console-port", type=click.IntRange(0, 65535), default=8470, help="0: a free one.")
@click.option(
    "--transfer-max-mb-s",
    type=click.FloatRange(min=0),
    default=0.0,
    show_default="0, no limit",
    help="What all devices may pull together, over MQTT and --blob-http.",
)
@click.option(
    "--blob-http",
    default="",
    help="Serve blobs by digest at HOST:PORT as well.",
)
@click.option(
    "--retention-days",
    type=click.IntRange(min=0),
    default=90,
    show_default=True,
    help="How long records of devices are kept; 0 for ever.",
)
@click.option("--no-console", is_flag=True, help="The API alone, without the pages.")
@state_option
@json_option
def up(
    fleet: str,
    broker: str,
    mqtt_port: int,
    console_port: int,
    transfer_max_mb_s: float,
    blob_http: str,
    retention_days: int,
    no_console: bool,
    state: StateDir,
    as_json: bool,
) -> int:
    """Start everything on this machine: broker, manager, store, API and console.

    What is not there is made: keys (for development), an empty store, a token for the API.
    """
    from fleet.clock import SystemClock
    from fleet.console.app import routes
    from fleet.identity.issuers import Issuers
    from fleet.manager.http_api import build_app
    from fleet.manager.http_server import HttpServer, bind
    from fleet.manager.loop import Manager
    from fleet.manager.retention import DAY_S
    from fleet.repository.tuf_repository import Repository
    from fleet.service import FleetService
    from fleet.store import open_store
    from fleet.transfer.http_blobs import bind_blobs, build_blob_app
    from fleet.transfer.http_guard import GuardedProtocol

    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)
    external = parse_broker_address(broker) if "://" in broker else None
    if external is None and broker not in KINDS:
        raise FleetError(
            f"--broker {broker!r}: expected {', '.join(KINDS)} or an address such as"
            " mqtts://broker.example.org:8883",
            hint="leave it out for a broker of its own",
            exit_code=ExitCode.USAGE,
        )
    with ExitStack() as stack, _signals() as asked:
        name = state.prepare(fleet)
        lock = state.lock()
        stack.callback(os.close, lock)
        clock = SystemClock()
        store = open_store(state.store, fleet=name)
        stack.callback(store.close)
        repository = Repository(state.path, name, clock.wall_s)
        listener = bind(console_port)
        stack.callback(listener.close)
        keeper = None
        if external is None:
            keeper = stack.enter_context(BrokerKeeper(broker, mqtt_port, state))
        address = external or BrokerAddress("127.0.0.1", mqtt_port)
        manager = Manager(
            fleet=name,
            store=store,
            repository=repository,
            address=address,
            clock=clock,
            issuers=Issuers(state.identity, name),
            delta_dir=state.path / "deltas",
            blob_total_bytes_s=transfer_max_mb_s * 1e6,
            records_kept_s=retention_days * DAY_S,
        )
        stack.callback(manager.stop)
        manager.start()
        token = state.make_token()
        service = FleetService(manager)
        pages = [] if no_console else routes(service, who=f"console ({getpass.getuser()})")
        server = HttpServer(build_app(service, token, pages), listener)
        server.start()
        stack.callback(server.stop)
        stack.callback(manager.feed.close)  # open event streams end before the server does
        state.announce(ApiAddress(url=server.url, pid=os.getpid(), fleet=name, broker=str(address)))
        stack.callback(state.retract)
        if blob_http:
            blob_app = build_blob_app(manager.blob_path, manager.transfer_rate, clock)
            blobs = HttpServer(blob_app, bind_blobs(blob_http), GuardedProtocol)
            blobs.start()
            stack.callback(blobs.stop)
        kind = keeper.kind if keeper else "yours"
        value = {
            "fleet": name,
            "state": str(state.path),
            "broker": str(address),
            "broker_kind": kind,
            "url": server.url,
        }
        lines = (
            f"fleet    {name} in {state.path}",
            f"broker   {address} ({kind})",
            f"{'API     ' if no_console else 'console '} {server.url}/",
            for_this_fleet(
                "next     edge-fleet publish BUNDLE, then edge-fleet rollout start LINE VERSION"
            ),
            "stop     Ctrl-C",
        )
        emit(value, "\n".join(lines), as_json=as_json)
        systemd = Systemd()
        systemd.ready(f"fleet {name}, console at {server.url}")
        stack.callback(systemd.stopping)
        return _watch(manager, keeper, asked, ProgressWatchdog(systemd, lambda: (manager.turns,)))


def _watch(
    manager: Manager,
    keeper: BrokerKeeper | None,
    asked: threading.Event,
    watchdog: ProgressWatchdog,
) -> int:
    """Wait for a signal or for the manager to end; keep the broker running meanwhile."""
    from fleet.clock import SystemClock

    clock = SystemClock()
    while not asked.wait(_POLL_S):
        watchdog.tick(clock.monotonic_s())
        if manager.ended.is_set():
            raise FleetError(
                f"the manager ended by itself: {manager.failure!r}",
                hint="its log above says where",
            )
        if keeper is not None:
            keeper.look()
    say("stopping")
    return ExitCode.OK


class BrokerKeeper:
    """A broker process that is started again when it dies, at growing intervals.

    Args:
        kind: ``auto``, ``mosquitto`` or ``embedded``.
        port: TCP port on the loopback.
        state: where its files go.
    """

    def __init__(self, kind: str, port: int, state: StateDir) -> None:
        from fleet.broker.process import BrokerProcess
        from fleet.clock import SystemClock

        self._start: Callable[[], BrokerProcess] = lambda: BrokerProcess.start(
            kind, port, state.broker
        )
        self._clock = SystemClock()
        self._process = self._start()
        self._started_s = self._clock.monotonic_s()
        self._wait_s = 1.0
        self._due_s: float | None = None

    @property
    def kind(self) -> str:
        """Which broker it is."""
        return self._process.kind

    def look(self) -> None:
        """Start it again if it is dead and its time has come; never raises."""
        now_s = self._clock.monotonic_s()
        if self._due_s is None:
            if self._process.is_running():
                return
            if now_s - self._started_s >= _STEADY_S:
                self._wait_s = 1.0
            self._due_s = now_s + self._wait_s
            say(f"the broker has died; starting it again in {self._wait_s:g} s")
        if now_s < self._due_s:
            return
        self._wait_s = min(_BACK_OFF_MAX_S, self._wait_s * 2)
        try:
            self._process = self._start()
        except FleetError as error:
            self._due_s = now_s + self._wait_s
            say(f"the broker does not start: {error.message}; next try in {self._wait_s:g} s")
            return
        self._started_s, self._due_s = now_s, None
        say("the broker is back")

    def __enter__(self) -> BrokerKeeper:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.stop()


@contextmanager
def _signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set."""
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
