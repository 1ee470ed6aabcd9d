"""What a revoked device can still do: on a real mosquitto, with connections that stand."""

from __future__ import annotations

import json
import socket
import ssl
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from fleet.errors import FleetError
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.evictions import Evictions
from fleet.manager.state_dir import StateDir
from tests.attacks.test_identity_broker import event
from tests.identity.secure_fleet import FLEET, DeviceKit, Peer, SecureFleet, eventually
from tests.manager.test_command_line import edge_fleet

pytestmark = pytest.mark.debian


@pytest.fixture
def web(tmp_path: Path) -> Iterator[SecureFleet]:
    fleet = SecureFleet(tmp_path, websocket=True)
    try:
        fleet.start_manager()
        yield fleet
    finally:
        fleet.close()


def revoke(secure: SecureFleet, kit: DeviceKit) -> None:
    secure.service.revoke_device(kit.name, who="test", reason="stolen")
    secure.reload_broker()


def shaken_hands(secure: SecureFleet, kit: DeviceKit) -> ssl.SSLSocket:
    """TLS is done; nothing of MQTT is said yet."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(str(kit.files.ca_path))
    context.load_cert_chain(str(kit.files.choose()), str(kit.identity.path))
    raw = socket.create_connection(("127.0.0.1", secure.ports.mqtt), 5)
    return context.wrap_socket(raw, server_hostname="localhost")


def say_connect(sock: ssl.SSLSocket) -> bytes:
    body = b"\x00\x04MQTT\x05\x02\x00\x3c\x00" + struct.pack(">H", 0)
    sock.sendall(b"\x10" + bytes([len(body)]) + body)
    return sock.recv(100)


def is_cut(sock: ssl.SSLSocket, within_s: float = 5.0) -> bool:
    sock.settimeout(within_s)
    try:
        while sock.recv(100):
            pass
    except TimeoutError:
        return False
    except OSError:
        return True
    return True


def test_the_standing_connection_of_a_revoked_device_is_cut_and_stays_cut(
    secure: SecureFleet,
) -> None:
    rogue, honest = secure.enrolled("rogue"), secure.enrolled("cam-2")
    standing, other = rogue.peer(), honest.peer()
    revoke(secure, rogue)
    time.sleep(0.5)
    assert standing.client.is_connected(), "mosquitto cuts it by itself: evictions can go"
    assert secure.service.cut_connections(who="test") == ["rogue"]
    eventually(lambda: standing.reasons)
    time.sleep(2.0)  # it tries again every second
    assert standing.connects == 1
    assert other.connects == 1
    assert not other.reasons


def test_a_handshake_from_before_the_list_is_cut_in_the_second_round(secure: SecureFleet) -> None:
    rogue = secure.enrolled("rogue")
    assert secure.manager is not None
    half_way = shaken_hands(secure, rogue)
    resumed = half_way.session
    revoke(secure, rogue)
    evictions = Evictions(
        secure.manager.address,
        secure.issuers,
        lambda: ["rogue"],
        secure.clock.wall_s,
        again_after_s=1.0,
    )
    assert evictions.evict() == ["rogue"]
    assert say_connect(half_way)[0] == 0x20, "mosquitto asks again by itself: one round will do"
    assert is_cut(half_way)
    # Nor does a TLS session of then help, although no certificate is looked at in one.
    context = half_way.context
    with (
        socket.create_connection(("127.0.0.1", secure.ports.mqtt), 5) as raw,
        pytest.raises(OSError),
        context.wrap_socket(raw, server_hostname="localhost", session=resumed) as sock,
    ):
        say_connect(sock)


def test_nothing_that_a_revoked_device_says_meanwhile_is_acted_upon(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    peer = kit.peer()
    secure.service.revoke_device("cam-1", who="test", reason="stolen")
    before = secure.service.device("cam-1")
    peer.subscribe(kit.topic("#"))
    announcement = {
        "device": "cam-1",
        "public": kit.identity.public.hex(),
        "hardware": "generic-x86-64",
        "line": "another",
        "agent_version": "9",
    }
    for tail in (
        "state/agent",
        "state/online",
        "telemetry/summary",
        "status/update",
        "blob/ask",
        "blob/delta-ask",
        "ask/time",
        "enroll/renew",
    ):
        peer.say(kit.topic(tail), b"{}")
    peer.say(kit.topic("event/alive"), event(kit, "alive", 1))
    peer.say("edge/v1/shop/_fleet/enroll/cam-1", json.dumps(announcement).encode())
    eventually(
        lambda: (
            {f.cls for f in secure.findings("revoked_key")}
            >= {"state", "telemetry", "status", "blob", "ask", "enroll", "event"}
        )
    )
    eventually(lambda: secure.findings("refused_key"))
    answers = []
    while (data := peer.hears(kit.topic("rsp/enrol"), 0.5)) is not None:
        answers.append(json.loads(data))
    assert [a["accepted"] for a in answers] == [False]
    assert peer.hears(kit.topic("rsp/ack"), 0.2) is None
    after = secure.service.device("cam-1")
    assert (after.device, after.committed, after.events) == (before.device, {}, [])


def test_websockets_take_a_revoked_device_for_nobody_even_after_a_restart(
    web: SecureFleet,
) -> None:
    rogue, honest = web.enrolled("rogue"), web.enrolled("cam-2")
    standing = rogue.peer(websocket=True)
    standing.subscribe(rogue.topic("desired/+"))
    revoke(web, rogue)
    watching = honest.peer(websocket=True)
    assert web.process is not None
    for again in (False, True):
        if again:
            web.stop_broker()
            web.start_broker()
            eventually(lambda: web.manager and web.manager.connected, 15.0)
            standing = rogue.peer(websocket=True)
            watching = honest.peer(websocket=True)
            standing.subscribe(rogue.topic("desired/+"))
        observer = Peer(web.ports.mqtt, web.issuers.tls_context("_observer"))
        web.clients.append(observer)
        observer.subscribe("edge/v1/shop/#")
        standing.say(rogue.topic("event/x"), b"from the dead")
        watching.say(honest.topic("event/x"), b"alive")
        heard = observer.hears_until(honest.topic("event/x"), b"alive")
        assert b"from the dead" not in [bytes(message.payload) for message in heard]


def test_a_reload_does_not_end_a_broker_with_websockets(web: SecureFleet) -> None:
    """With `crlfile` there mosquitto 2.0 frees a TLS context that is not its own."""
    kit = web.enrolled("cam-1")
    for _ in range(3):
        peer = kit.peer(websocket=True)
        web.reload_broker()
        peer.close()
    assert web.process is not None
    assert web.process.poll() is None
    assert kit.peer(websocket=True).connects == 1


def test_without_tls_nobody_is_said_to_be_cut(secure: SecureFleet) -> None:
    plain = BrokerAddress("localhost", 1883)
    evictions = Evictions(plain, secure.issuers, lambda: ["cam-1"], secure.clock.wall_s)
    with pytest.raises(FleetError, match="has no TLS"):
        evictions.evict()


def test_without_a_manager_the_operator_is_told_what_still_stands(
    secure: SecureFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    assert secure.process is not None
    state, crl = secure.home / "state", secure.home / "broker" / "crl.pem"
    StateDir(state).prepare(FLEET)
    words = ("broker", "crl", "--out", crl, "--reload", secure.process.pid)
    answer = edge_fleet(*words, state=state)
    assert (answer["told"], answer["cut"]) == (True, None)
    assert "connections that stand were not cut: no manager runs" in capsys.readouterr().err
    assert edge_fleet("broker", "crl", "--out", crl, state=state)["told"] is False
    assert "then edge-fleet broker cut" in capsys.readouterr().err
    assert "no manager runs" in edge_fleet("broker", "cut", state=state, code=7)["error"]
