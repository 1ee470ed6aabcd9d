"""Both brokers, really started, killed and started again."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from paho.mqtt.client import Client, MQTTMessage, MQTTv5
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import ExitCode
from fleet.broker import mosquitto
from fleet.broker.process import PID_FILE, BrokerProcess, answers, choose
from fleet.errors import FleetError
from tests.programs import require_program

KINDS = [pytest.param("mosquitto", marks=pytest.mark.debian), "embedded"]
ROOT = Path(__file__).parents[2]


def free_port() -> int:
    """A port that is free now, from below the range out of which systems hand out their own:
    another process asking for any port cannot take it before the broker does."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def eventually(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(0.02)
    return condition()


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


class Peer:
    """A paho MQTT 5 client that keeps what it receives."""

    def __init__(self, port: int, subscribe: str = "") -> None:
        self.received: queue.Queue[MQTTMessage] = queue.Queue()
        self._client = Client(CallbackAPIVersion.VERSION2, protocol=MQTTv5)
        self._client.on_message = lambda client, userdata, message: self.received.put(message)
        self._client.connect("127.0.0.1", port)
        self._client.loop_start()
        if subscribe:
            subscribed: queue.Queue[object] = queue.Queue()
            self._client.on_subscribe = lambda *answer: subscribed.put(answer)
            self._client.subscribe(subscribe, qos=1)
            subscribed.get(timeout=5)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False, **user: str) -> None:
        properties = Properties(PacketTypes.PUBLISH)
        if user:
            properties.UserProperty = list(user.items())
        self._client.publish(topic, payload, 1, retain, properties).wait_for_publish(5)

    def close(self) -> None:
        self._client.disconnect()
        self._client.loop_stop()


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    if request.param == "mosquitto":
        require_program("mosquitto")
    return str(request.param)


@pytest.fixture
def broker(kind: str, tmp_path: Path) -> Iterator[BrokerProcess]:
    process = BrokerProcess.start(kind, free_port(), tmp_path / "broker")
    yield process
    process.stop()


def test_started_broker_answers_mqtt5_and_stops(broker: BrokerProcess, tmp_path: Path) -> None:
    assert answers("127.0.0.1", broker.port)
    assert int((tmp_path / "broker" / PID_FILE).read_text()) == broker.pid
    broker.stop()
    broker.stop()
    assert not broker.is_running()
    assert not answers("127.0.0.1", broker.port)


def test_largest_message_and_its_user_properties_arrive(broker: BrokerProcess) -> None:
    reader, writer = Peer(broker.port, "edge/#"), Peer(broker.port)
    payload = bytes(range(256)) * (MESSAGE_LIMIT_BYTES // 256)
    writer.publish("edge/v1/shop/cam/telemetry/summary", payload, **{"wherry-sig": "c2ln"})
    message = reader.received.get(timeout=5)
    assert message.payload == payload
    assert message.properties is not None
    assert message.properties.UserProperty == [("wherry-sig", "c2ln")]
    reader.close()
    writer.close()


def test_retained_message_reaches_a_later_subscriber(broker: BrokerProcess) -> None:
    writer = Peer(broker.port)
    writer.publish("edge/v1/shop/cam/desired/model", b"order", retain=True, **{"wherry-sig": "x"})
    reader = Peer(broker.port, "edge/v1/shop/cam/desired/#")
    message = reader.received.get(timeout=5)
    assert (message.payload, message.retain) == (b"order", True)
    assert message.properties is not None
    assert message.properties.UserProperty == [("wherry-sig", "x")]
    reader.close()
    writer.close()


def test_killed_broker_starts_again_on_its_port_and_state(
    broker: BrokerProcess, kind: str, tmp_path: Path
) -> None:
    reader = Peer(broker.port, "after/#")
    for _ in range(2):
        os.kill(broker.pid, signal.SIGKILL)
        assert broker.wait(5)
        broker = BrokerProcess.start(kind, broker.port, tmp_path / "broker")
    # A client that knew nothing of it reconnects by itself, and subscribes anew by protocol.
    writer = Peer(broker.port)
    again = Peer(broker.port, "after/#")
    writer.publish("after/kill", b"back")
    assert again.received.get(timeout=5).payload == b"back"
    for peer in (reader, writer, again):
        peer.close()
    broker.stop()


def test_mosquitto_is_told_what_no_test_can_see(tmp_path: Path) -> None:
    """Speed, and bounds that are thousands of messages away."""
    lines = mosquitto.write_config("127.0.0.1", 1883, tmp_path).read_text().splitlines()
    wanted = ("set_tcp_nodelay true", "max_queued_messages 0", "max_inflight_messages 100")
    assert set(wanted) <= set(lines)


@pytest.mark.debian
def test_mosquitto_keeps_retained_messages_over_a_stop(tmp_path: Path) -> None:
    require_program("mosquitto")
    port = free_port()
    broker = BrokerProcess.start("mosquitto", port, tmp_path)
    writer = Peer(port)
    writer.publish("kept", b"still here", retain=True)
    writer.close()
    broker.stop()
    broker = BrokerProcess.start("mosquitto", port, tmp_path)
    reader = Peer(port, "kept")
    assert reader.received.get(timeout=5).payload == b"still here"
    reader.close()
    broker.stop()


def test_broker_ends_when_its_parent_is_killed(kind: str, tmp_path: Path) -> None:
    # Started from a thread that ends: the kernel's signal is per thread, and must not come then.
    program = (
        "import sys, threading, time; from pathlib import Path;"
        "from fleet.broker.process import BrokerProcess;"
        "start = lambda: print(BrokerProcess.start(sys.argv[1], int(sys.argv[2]),"
        " Path(sys.argv[3])).pid, flush=True);"
        "thread = threading.Thread(target=start); thread.start(); thread.join(); time.sleep(60)"
    )
    port = free_port()
    parent = subprocess.Popen(
        [sys.executable, "-c", program, kind, str(port), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    time.sleep(0.3)
    assert alive(pid)
    assert answers("127.0.0.1", port)
    parent.kill()
    parent.communicate()
    assert eventually(lambda: not alive(pid))


def test_foreground_broker_ends_on_sigterm_and_leaves_no_process(kind: str, tmp_path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from fleet.broker.process import run_in_foreground;"
        "run_in_foreground(sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]),"
        " ready=lambda broker: print(broker.pid, flush=True))"
    )
    runner = subprocess.Popen(
        [sys.executable, "-c", program, kind, str(free_port()), str(tmp_path)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert runner.stdout is not None
    pid = int(runner.stdout.readline())
    runner.terminate()
    runner.communicate(timeout=15)
    assert runner.returncode == 0
    assert not alive(pid)


def test_taken_port_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(FleetError, match=f"port {port} on 127.0.0.1 cannot be used") as caught:
            BrokerProcess.start(kind, port, tmp_path / "state")
    assert caught.value.exit_code is ExitCode.NETWORK
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.10", "::", "broker.example"])
def test_broker_is_never_bound_beyond_loopback(kind: str, host: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="refusing to bind"):
        BrokerProcess.start(kind, free_port(), tmp_path, host=host)


@pytest.mark.debian
def test_damaged_mosquitto_database_is_said_with_the_way_out(tmp_path: Path) -> None:
    require_program("mosquitto")
    (tmp_path / "mosquitto.db").write_bytes(b"not a database")
    with pytest.raises(FleetError, match=r"mosquitto broker .* ended at once") as caught:
        BrokerProcess.start("mosquitto", free_port(), tmp_path)
    assert "broker.log" in caught.value.hint
    assert "remove the file" in caught.value.hint


def test_missing_mosquitto_is_said_and_auto_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mosquitto, "find_mosquitto", lambda: None)
    assert choose("auto") == "embedded"
    with pytest.raises(FleetError, match="not installed") as caught:
        choose("mosquitto")
    assert caught.value.exit_code is ExitCode.NOT_FOUND


def test_unknown_kind_is_a_usage_error() -> None:
    with pytest.raises(FleetError, match="expected auto, mosquitto or embedded") as caught:
        choose("rabbit")
    assert caught.value.exit_code is ExitCode.USAGE
