"""Starting a broker as a process of its own, and knowing that it answers."""

from __future__ import annotations

import ipaddress
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from paho.mqtt.client import Client, ConnectFlags, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from edge_contract.errors import ExitCode
from edge_contract.layout import write_durably
from fleet.broker import embedded, mosquitto, tether
from fleet.errors import FleetError

Kind = Literal["mosquitto", "embedded"]
PID_FILE = "broker.pid"
_LOG_FILE = "broker.log"
_LOG_TAIL_BYTES = 2000
_POLL_S = 0.05
_STOP_TIMEOUT_S = 5.0


def choose(kind: str = "auto") -> Kind:
    """Which broker to run.

    Args:
        kind: ``auto`` (mosquitto where it is installed, else the embedded one), ``mosquitto``
            or ``embedded``.

    Raises:
        FleetError: the one asked for is not installed, or there is no such kind.
    """
    if kind not in ("auto", "mosquitto", "embedded"):
        raise FleetError(
            f"--broker {kind!r}: expected auto, mosquitto or embedded", exit_code=ExitCode.USAGE
        )
    if kind != "embedded" and mosquitto.find_mosquitto() is not None:
        return "mosquitto"
    if kind == "mosquitto":
        raise FleetError(
            "mosquitto is not installed",
            hint="sudo apt-get install mosquitto, or use --broker embedded",
            exit_code=ExitCode.NOT_FOUND,
        )
    if not embedded.is_installed():
        raise FleetError(
            "the embedded broker (iotcore) is not installed",
            hint="pip install 'wherry[fleet]', or install mosquitto",
            exit_code=ExitCode.NOT_FOUND,
        )
    return "embedded"


class BrokerProcess:
    """A running broker; made by ``start``.

    It ends with this process, however this process ends (Linux; elsewhere only by ``stop``).
    """

    def __init__(self, kind: Kind, host: str, port: int, state_dir: Path) -> None:
        self.kind: Kind = kind
        self.host = host
        self.port = port
        self.log_path = state_dir / _LOG_FILE
        self._pid_path = state_dir / PID_FILE
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None

    @classmethod
    def start(
        cls,
        kind: str,
        port: int,
        state_dir: Path,
        *,
        host: str = "127.0.0.1",
        timeout_s: float = 15.0,
    ) -> BrokerProcess:
        """Start a broker and return once it has answered an MQTT 5 connect.

        Its settings, log, pid (``broker.pid``) and, with mosquitto, what is retained are kept
        in ``state_dir``. Start it again there, and on the same port, after it was killed.

        Args:
            kind: see ``choose``.
            port: the TCP port.
            state_dir: made if it does not exist.
            host: a loopback address. Anything else is refused: neither has access control here.
            timeout_s: how long it may take to answer.

        Raises:
            FleetError: not loopback, not installed, the port is taken, or no answer in time.
        """
        chosen = choose(kind)
        _require_loopback(host)
        _require_free(host, port)
        state_dir = state_dir.absolute()
        state_dir.mkdir(parents=True, exist_ok=True)
        broker = cls(chosen, host, port, state_dir)
        broker._launch(_command(chosen, host, port, state_dir), state_dir)
        try:
            broker._wait_until_it_answers(timeout_s)
        except BaseException:
            broker.stop()
            raise
        write_durably(broker._pid_path, f"{broker.pid}\n".encode())
        return broker

    @property
    def pid(self) -> int:
        """The broker's own process id."""
        assert self._process is not None
        return self._process.pid

    def is_running(self) -> bool:
        """Whether the process is alive."""
        return self._process is not None and self._process.poll() is None

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the process has ended; whether it has."""
        assert self._process is not None
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return False
        return True

    def stop(self) -> None:
        """Ask it to end, and make it end if it does not. Safe to call twice."""
        process = self._process
        if process is None or process.poll() is not None:
            return
        process.terminate()
        if not self.wait(_STOP_TIMEOUT_S):
            process.kill()
            process.wait()
        self._pid_path.unlink(missing_ok=True)

    def _launch(self, command: list[str], state_dir: Path) -> None:
        """Start the process from a thread that lives as long as it does.

        The parent-death signal comes when the *thread* that made the child ends (prctl(2)), so
        the thread of whoever called ``start`` will not do.
        """
        started = threading.Event()
        tied = [sys.executable, "-I", tether.__file__, str(os.getpid()), *command]

        def keep() -> None:
            with self.log_path.open("wb") as log:
                try:
                    self._process = subprocess.Popen(
                        tied,
                        cwd=state_dir,
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                        start_new_session=True,
                    )
                except OSError as error:
                    self._failure = error
                    return
                finally:
                    started.set()
            self._process.wait()

        threading.Thread(target=keep, name="broker", daemon=True).start()
        started.wait()
        if self._failure is not None:
            raise FleetError(f"cannot start {command[0]}: {self._failure}") from self._failure

    def _wait_until_it_answers(self, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not answers(self.host, self.port):
            if not self.is_running():
                raise self._failed("ended at once")
            if time.monotonic() > deadline:
                raise self._failed(f"did not answer within {timeout_s:g} s")
            time.sleep(_POLL_S)
        if not self.is_running():
            raise self._failed("ended at once, and another program answers there")

    def _failed(self, how: str) -> FleetError:
        tail = self.log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
        hint = f"its log is {self.log_path}"
        if self.kind == "mosquitto":
            hint += (
                "; if it cannot read mosquitto.db beside that, remove the file: the manager"
                " publishes all that was retained again"
            )
        return FleetError(
            f"the {self.kind} broker on {self.host}:{self.port} {how}; it said:"
            f" {tail or '(nothing)'}",
            hint=hint,
            exit_code=ExitCode.NETWORK,
        )


def run_in_foreground(
    kind: str,
    port: int,
    state_dir: Path,
    *,
    host: str = "127.0.0.1",
    ready: Callable[[BrokerProcess], None],
) -> None:
    """Run a broker until SIGINT or SIGTERM, for ``edge-fleet broker run``. Main thread only.

    Args:
        kind: see ``choose``.
        port: the TCP port.
        state_dir: see ``BrokerProcess.start``.
        host: a loopback address.
        ready: called once it answers.

    Raises:
        FleetError: it could not be started, or it ended by itself.
    """
    asked = threading.Event()
    before = {
        number: signal.signal(number, lambda *_: asked.set())
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        broker = BrokerProcess.start(kind, port, state_dir, host=host)
        try:
            ready(broker)
            while not asked.is_set():
                if broker.wait(_POLL_S * 4):
                    raise FleetError(
                        f"the broker (pid {broker.pid}) ended by itself",
                        hint=f"its log is {broker.log_path}",
                    )
        finally:
            broker.stop()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def answers(host: str, port: int, timeout_s: float = 2.0) -> bool:
    """Whether an MQTT 5 broker accepts a connection there: a real CONNACK, not an open port."""
    accepted: list[bool] = []

    def on_connect(
        client: Client,
        userdata: object,
        flags: ConnectFlags,
        reason: ReasonCode,
        properties: Properties | None,
    ) -> None:
        accepted.append(not reason.is_failure)

    client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
    client.on_connect = on_connect
    client.connect_timeout = timeout_s
    try:
        client.connect(host, port)
    except OSError:
        return False
    deadline = time.monotonic() + timeout_s
    while not accepted and time.monotonic() < deadline:
        if client.loop(_POLL_S) != 0:
            break
    client.disconnect()
    return accepted == [True]


def _command(kind: Kind, host: str, port: int, state_dir: Path) -> list[str]:
    if kind == "mosquitto":
        program = mosquitto.find_mosquitto()
        assert program is not None
        return [program, "-c", str(mosquitto.write_config(host, port, state_dir))]
    config = embedded.write_config(host, port, state_dir)
    # rumqttd logs every packet as an error; its real failures end the process.
    return [sys.executable, "-m", "iotcore", "--config", str(config), "--log-level", "CRITICAL"]


def _require_loopback(host: str) -> None:
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise FleetError(
            f"refusing to bind the broker to {host!r}: it admits anyone, so it may only listen on"
            " a loopback address such as 127.0.0.1",
            hint="for other machines run your own broker with access control",
            exit_code=ExitCode.USAGE,
            docs="adr/0007-embedded-broker.md",
        )


def _require_free(host: str, port: int) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise FleetError(
                f"port {port} on {host} cannot be used: {error.strerror}",
                hint="another broker may be running there: stop it, or choose --mqtt-port",
                exit_code=ExitCode.NETWORK,
            ) from error
