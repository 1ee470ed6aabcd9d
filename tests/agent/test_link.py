"""The link against sockets that are no honest broker, and the will of each connection."""

from __future__ import annotations

import json
import queue
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from edge_agent.config import MqttSection
from edge_agent.identity import Identity
from edge_agent.link import Inbound, Link, LinkDown, LinkEvent, LinkUp
from edge_agent.transfer.budget import ByteBudget
from tests.agent.conftest import Bench

CONNACK = bytes([0x20, 3, 0, 0, 0])
REFUSED = bytes([0x20, 3, 0, 0x87, 0])


def publish(topic: bytes, payload: bytes = b"x", properties: bytes = b"\0") -> bytes:
    body = struct.pack(">H", len(topic)) + topic + properties + payload
    return bytes([0x30, len(body)]) + body


class FakeBroker:
    """Accepts connections, keeps each CONNECT, says what it was told to say, and hangs up."""

    def __init__(self, *says: bytes) -> None:
        self._says = says
        self._socket = socket.socket()
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen(8)
        self.port = int(self._socket.getsockname()[1])
        self.connects: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._socket.accept()
            except OSError:
                return
            with client:
                client.settimeout(2.0)
                try:
                    self.connects.put(client.recv(65536))
                    for words in self._says:
                        client.sendall(words)
                    client.settimeout(0.3)
                    while client.recv(65536):
                        pass
                except OSError:
                    continue

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def meet(tmp_path: Path) -> Iterator[Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]]]:
    made: list[tuple[FakeBroker, Link]] = []

    def start(*says: bytes) -> tuple[FakeBroker, queue.Queue[LinkEvent]]:
        broker = FakeBroker(*says)
        events: queue.Queue[LinkEvent] = queue.Queue()
        link = Link(
            MqttSection(host="127.0.0.1", port=broker.port, reconnect_max_s=1.0),
            "test/cam-1",
            Identity(tmp_path / "key.pem"),
            events.put,
            lambda connection: ("edge/will", json.dumps({"id": connection}).encode()),
        )
        made.append((broker, link))
        link.start()
        return broker, events

    yield start
    for broker, link in made:
        broker.close()
        link.stop()


def next_of(kind: type[LinkEvent], events: queue.Queue[LinkEvent]) -> LinkEvent:
    while not isinstance(event := events.get(timeout=10.0), kind):
        pass
    return event


def test_each_connection_has_a_will_with_its_own_id(
    meet: Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]],
) -> None:
    broker, events = meet(CONNACK)
    wills: list[bytes] = []
    ids: list[str] = []
    for _ in range(2):
        up = next_of(LinkUp, events)
        assert isinstance(up, LinkUp)
        ids.append(up.connection_id)
        wills.append(broker.connects.get(timeout=10.0))
    assert ids[0] != ids[1]
    for connection, will in zip(ids, wills, strict=True):
        assert json.dumps({"id": connection}).encode() in will
        assert b"wherry-sig" in will


@pytest.mark.parametrize(
    "says",
    [
        (REFUSED,),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n",),
        (b"SSH-2.0-OpenSSH_9.2\r\n",),
        (bytes(200),),
        (b"\xff" * 200,),
        (bytes([0x20, 1, 0]),),
        (CONNACK, publish(b"a/b", properties=b"\x05\xfe\xfe\xfe\xfe\xfe")),
        (CONNACK, bytes([0x30, 1, 0])),
        (CONNACK, bytes([0xE0, 2, 0x33, 0])),
    ],
)
def test_whoever_answers_the_link_tries_again(
    meet: Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]], says: tuple[bytes, ...]
) -> None:
    broker, events = meet(*says)
    for _ in range(2):
        broker.connects.get(timeout=15.0)
    assert isinstance(next_of(LinkDown, events), LinkDown)


def test_a_topic_that_is_no_text_does_not_end_the_link(
    meet: Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]],
) -> None:
    _, events = meet(CONNACK, publish(b"\xff\xfe"), publish(b"a/b", b"after it"))
    assert next_of(Inbound, events) == Inbound("a/b", b"after it", "")


def test_a_refusal_is_said_in_the_brokers_words(
    meet: Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]],
) -> None:
    _, events = meet(REFUSED)
    down = next_of(LinkDown, events)
    assert isinstance(down, LinkDown)
    assert "Not authorized" in down.reason


def test_a_reconnect_comes_back_and_never_waits_for_the_network_thread(tmp_path: Path) -> None:
    broker = FakeBroker(CONNACK)
    events: queue.Queue[LinkEvent] = queue.Queue()
    busy, free = threading.Event(), threading.Event()

    def post(event: LinkEvent) -> None:
        if not busy.is_set():
            busy.set()
            free.wait(20.0)  # the network thread is in the middle of something
        events.put(event)

    link = Link(
        MqttSection(host="127.0.0.1", port=broker.port, reconnect_max_s=1.0),
        "test/cam-1",
        Identity(tmp_path / "key.pem"),
        post,
        lambda connection: ("edge/will", b"{}"),
    )
    link.start()
    assert busy.wait(10.0)
    link.reconnect()
    assert not free.is_set(), "it came back while the network thread was busy"
    assert events.empty()
    free.set()
    for _ in range(2):
        broker.connects.get(timeout=10.0)
    broker.close()
    link.stop()


def test_a_broker_that_sends_a_packet_without_end_is_hung_up_on(tmp_path: Path) -> None:
    """A captured one: an agent that took 256 MB would be ended, and the model with it."""
    taken_bytes = 0
    connects: queue.Queue[bytes] = queue.Queue()

    def serve(listener: socket.socket) -> None:
        nonlocal taken_bytes
        client, _ = listener.accept()
        with client:
            connects.put(client.recv(65536))
            client.sendall(CONNACK + bytes([0x30, 0xFF, 0xFF, 0xFF, 0x7F]))
            try:
                while taken_bytes < 200_000_000:
                    client.sendall(bytes(1 << 20))
                    taken_bytes += 1 << 20
            except OSError:
                return

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, args=(listener,), daemon=True)
        thread.start()
        port = int(listener.getsockname()[1])
        events: queue.Queue[LinkEvent] = queue.Queue()
        link = Link(
            MqttSection(host="127.0.0.1", port=port, reconnect_max_s=1.0),
            "test/cam-1",
            Identity(tmp_path / "key.pem"),
            events.put,
            lambda connection: ("edge/will", b"{}"),
        )
        link.start()
        next_of(LinkDown, events)
        thread.join(20)
        link.stop()
    assert taken_bytes < 20_000_000, "what the sockets hold, and no more"
    # An honest broker is told (MQTT 5, property 39: Maximum Packet Size).
    assert b"\x27" + struct.pack(">I", 2 * 128 * 1024) in connects.get(timeout=1)


def test_what_had_come_of_a_message_that_was_cut_off_is_told(
    meet: Callable[..., tuple[FakeBroker, queue.Queue[LinkEvent]]],
) -> None:
    _, events = meet(CONNACK, bytes([0x30, 0x88, 0x27]) + bytes(1000))  # of 5,000
    down = next_of(LinkDown, events)
    assert isinstance(down, LinkDown)
    assert down.unread_bytes == 1000


def test_a_device_whose_day_is_spent_does_not_come_back_at_once(bench: Bench) -> None:
    broker = FakeBroker(CONNACK)  # hangs up on everybody after a moment
    bench.configure(
        f'[mqtt]\nhost = "127.0.0.1"\nport = {broker.port}\nreconnect_max_s = 1\n'
        "[link]\nmetered = true\n"
    )
    bench.state.mkdir()
    spent = ByteBudget(bench.state / "byte-budget.json", 1_000_000, lambda: 1.0, "last boot")
    spent.spend(1_000_000)
    spent.close()
    bench.start()
    try:
        broker.connects.get(timeout=20)
        with pytest.raises(queue.Empty):
            broker.connects.get(timeout=4)
        budget = bench.status()["budget"]
        assert budget["spent_bytes"] > 1_006_000
    finally:
        broker.close()
