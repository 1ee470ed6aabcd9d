"""Rogue devices, strangers and a captured issuer against a real mosquitto with our settings."""

from __future__ import annotations

import json
import os
import random
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from edge_agent.identity.certificate import check_chain
from edge_agent.identity.tls import client_context
from edge_contract.codec import encode_json
from edge_contract.errors import TrustError
from edge_contract.messages import CertificateAsk, Event
from edge_contract.signing import public_bytes
from edge_contract.topics import FROM_DEVICE
from fleet.identity.authority import make_authority, open_authority, private_pem
from fleet.identity.certificates import build_client, build_server
from fleet.identity.mosquitto_settings import check_settings
from fleet.manager.quota import BUCKETS_MAX, BURST, Quota
from tests.identity.secure_fleet import FLEET, DeviceKit, Peer, SecureFleet, eventually

pytestmark = pytest.mark.debian


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecureFleet]:
    fleet = SecureFleet(tmp_path_factory.mktemp("fleet"))
    try:
        fleet.start_manager()
        yield fleet
    finally:
        fleet.close()


@pytest.fixture(scope="module")
def rogue(secure: SecureFleet) -> DeviceKit:
    """An enrolled device that turned bad."""
    return secure.enrolled("rogue")


@pytest.fixture(scope="module")
def victim(secure: SecureFleet) -> DeviceKit:
    return secure.enrolled("victim")


def observer(secure: SecureFleet) -> Peer:
    """Reads everything; it has a certificate for that."""
    peer = Peer(secure.ports.mqtt, secure.issuers.tls_context("_observer"))
    peer.subscribe(f"edge/v1/{FLEET}/#")
    secure.clients.append(peer)
    return peer


def event(kit: DeviceKit, name: str, seq: int) -> bytes:
    body = Event(
        ts=time.time(),
        seq=seq,
        boot_id=f"boot-{kit.name}",
        model_version="",
        name=name,
        severity="warning",
        text="here",
    )
    return encode_json(body)


def served(secure: SecureFleet, kit: DeviceKit, peer: Peer, seq: int, within_s: float) -> float:
    """Seconds until the manager has acknowledged one event of ``kit`` end to end."""
    began_s = time.monotonic()
    peer.subscribe(kit.topic("rsp/+"))
    peer.say(kit.topic("event/alive"), event(kit, "alive", seq))
    data = peer.hears(kit.topic("rsp/ack"), within_s)
    assert data is not None, f"not served within {within_s} s"
    assert json.loads(data)["ranges"][-1][1] >= seq
    return time.monotonic() - began_s


# What a device may not say. --------------------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        "victim/telemetry/summary",
        "victim/state/agent",
        "victim/desired/model",
        "victim/rsp/ack",
        "victim/blob/ask",
        "victim/enroll/renew",
        "rogue/desired/model",
        "rogue/rsp/ack",
        "rogue/cmd/run",
        "rogue/blob/data",
        "_fleet/metadata/digits",
        "_fleet/metadata/head.digits",
        "_fleet/metadata/root.2",
        "_fleet/enrolled/ca",
        "_manager/desired/model",
    ],
)
def test_rogue_device_cannot_publish_there(
    secure: SecureFleet, rogue: DeviceKit, tail: str
) -> None:
    watching = observer(secure)
    peer = rogue.peer()
    topic = f"edge/v1/{FLEET}/{tail}"
    peer.say(topic, b"forged", retain=True)
    peer.say(rogue.topic("event/after"), b"after")
    heard = watching.hears_until(rogue.topic("event/after"), b"after")
    assert b"forged" not in [bytes(message.payload) for message in heard]
    peer.close()
    watching.close()


@pytest.mark.parametrize("topic", ["edge/v1/other/cam-1/state/agent", "edge/v2/x", "$SYS/x", "x"])
def test_rogue_device_cannot_reach_another_fleet(
    secure: SecureFleet, rogue: DeviceKit, topic: str
) -> None:
    peer = rogue.peer()
    peer.subscribe("#")
    peer.say(topic, b"forged")
    assert peer.hears(topic, 0.5) is None
    peer.close()


def test_rogue_device_cannot_hear_others(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    peer, speaker = rogue.peer(), victim.peer()
    for wish in ("#", f"edge/v1/{FLEET}/+/+/+", f"edge/v1/{FLEET}/victim/#", "edge/v1/+/victim/#"):
        peer.subscribe(wish)
    speaker.say(victim.topic("event/secret"), event(victim, "secret", 1))
    assert peer.hears(victim.topic("event/secret"), 1.0) is None
    peer.close()
    speaker.close()


def test_another_devices_client_id_takes_no_session(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    # The ids that agent and manager ask for themselves are what a thief would take.
    honest = victim.peer(client_id=f"{FLEET}.victim")
    assert secure.manager is not None
    assert secure.manager.connected
    known = secure.manager.facts.reconnects_count
    for name in ("victim", "_manager"):
        for mark in ("/", "."):
            thief = rogue.peer(client_id=f"{FLEET}{mark}{name}")
            time.sleep(0.1)
            thief.close()
    assert not honest.reasons
    assert honest.connects == 1
    assert secure.manager.connected
    assert served(secure, victim, honest, 51, 10.0) < 10
    assert secure.manager.facts.reconnects_count == known
    honest.close()


def test_a_will_cannot_speak_for_another(secure: SecureFleet, rogue: DeviceKit) -> None:
    watching = observer(secure)
    peer = rogue.peer(connect=False)
    peer.client.will_set(f"edge/v1/{FLEET}/victim/state/online", b"gone", 1, True)
    peer.connect()
    sock = peer.client.socket()
    assert sock is not None
    peer.client.loop_stop()
    sock.close()
    assert watching.hears(f"edge/v1/{FLEET}/victim/state/online", 1.0) is None
    watching.close()


# Strangers. -------------------------------------------------------------------------------------


def test_nobody_enters_without_a_certificate(secure: SecureFleet, victim: DeviceKit) -> None:
    context = client_context(victim.files.ca_path, reference_s=lambda: 0.0)
    assert Peer(secure.ports.mqtt, context, connect=False).refused()


def test_a_certificate_of_a_ca_with_the_same_name_is_refused(
    secure: SecureFleet, victim: DeviceKit, tmp_path: Path
) -> None:
    make_authority(tmp_path / "ca", FLEET, "another passphrase", now_s=time.time())
    authority = open_authority(tmp_path / "ca", "another passphrase")
    key = Ed25519PrivateKey.generate()
    now_s = time.time()
    made = build_client(
        FLEET, "victim", key.public_key(), authority.certificate, authority.key, now_s, now_s + 99
    )
    chain = tmp_path / "chain.pem"
    chain.write_bytes(made.public_bytes(Encoding.PEM) + victim.identity.path.read_bytes())
    with pytest.raises(ssl.SSLError):  # not even our own client shows a key that does not fit
        client_context(victim.files.ca_path, chain=chain, reference_s=lambda: 0.0)
    other = Ed25519PrivateKey.generate()
    fits = build_client(
        FLEET,
        "victim",
        other.public_key(),
        authority.certificate,
        authority.key,
        now_s,
        now_s + 99,
    )
    from cryptography.hazmat.primitives.serialization import NoEncryption, PrivateFormat

    pem = other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    chain.write_bytes(fits.public_bytes(Encoding.PEM) + pem)
    context = client_context(victim.files.ca_path, chain=chain, reference_s=lambda: 0.0)
    assert Peer(secure.ports.mqtt, context, connect=False).refused()


def test_strangers_hear_and_say_nothing_but_their_own(
    secure: SecureFleet, victim: DeviceKit
) -> None:
    context = client_context(victim.files.ca_path, reference_s=lambda: 0.0)
    stranger = Peer(secure.ports.enroll, context, client_id="a" * 32)
    secure.clients.append(stranger)
    watching = observer(secure)
    for wish in ("#", f"edge/v1/{FLEET}/_fleet/enrolled/+", victim.topic("desired/+")):
        stranger.subscribe(wish)
    other = secure.kit("cam-77")
    other.enrol(secure.code())
    for topic in (
        victim.topic("state/agent"),
        f"edge/v1/{FLEET}/_fleet/enroll/victim",
        f"edge/v1/{FLEET}/_fleet/enroll/code.{'b' * 32}",
        f"edge/v1/{FLEET}/_fleet/enrolled/ca",
        f"edge/v1/{FLEET}/_fleet/metadata/digits",
    ):
        stranger.say(topic, b"forged")
    own = f"edge/v1/{FLEET}/_fleet/enroll/code.{'a' * 32}"
    stranger.say(own, b"mine")
    heard = watching.hears_until(own, b"mine")
    assert b"forged" not in [bytes(message.payload) for message in heard]
    leaked = [m.topic for m in list(stranger.heard.queue)]
    assert set(leaked) <= {f"edge/v1/{FLEET}/_fleet/enrolled/ca"}
    watching.close()


def test_captured_issuer_cannot_play_the_broker(
    secure: SecureFleet, victim: DeviceKit, tmp_path: Path
) -> None:
    issuer = secure.issuers.current(time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    made = build_server(
        FLEET, ["localhost"], key.public_key(), issuer.certificate, issuer.key, time.time(), 3600
    )
    chain = tmp_path / "server.pem"
    chain.write_bytes(
        private_pem(key)
        + made.public_bytes(Encoding.PEM)
        + issuer.certificate.public_bytes(Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=_accept_tls, args=(listener, server), daemon=True).start()
        context = client_context(victim.files.ca_path, reference_s=lambda: 0.0)
        with (
            socket.create_connection(listener.getsockname()) as raw,
            pytest.raises(ssl.SSLCertVerificationError),
        ):
            context.wrap_socket(raw, server_hostname="localhost")


def test_a_chain_made_by_a_device_is_no_chain(secure: SecureFleet, rogue: DeviceKit) -> None:
    """A device's certificate is no CA: what it signs for another name is refused."""
    leaf = rogue.leaf()
    key = ec.generate_private_key(ec.SECP256R1())
    victim_key = Ed25519PrivateKey.generate()
    forged = build_client(FLEET, "victim", victim_key.public_key(), leaf, key, time.time(), 2e9)
    chain = forged.public_bytes(Encoding.PEM) + leaf.public_bytes(Encoding.PEM)
    ca = secure.issuers.ca_pem
    name = f"{FLEET}/victim"
    with pytest.raises(TrustError, match="does not chain"):
        check_chain(chain.decode(), ca, name, public_bytes(victim_key.public_key()))


# Floods and nonsense. ---------------------------------------------------------------------------


def test_flood_costs_its_sender_and_others_are_served(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    before_mb = _rss_mb()
    flooding, honest = rogue.peer(), victim.peer()
    stop = threading.Event()

    def flood() -> None:
        payload = b"x" * 1000
        while not stop.is_set():
            for qos in (0, 1):
                for _ in range(200):
                    # As fast as the wire takes it, without filling this process's own memory.
                    if len(flooding.client._out_packet) + len(flooding.client._out_messages) < 3000:
                        flooding.client.publish(rogue.topic("telemetry/summary"), payload, qos)
            time.sleep(0.02)

    thread = threading.Thread(target=flood)
    thread.start()
    try:
        time.sleep(1.0)
        took_s = [served(secure, victim, honest, seq, 10.0) for seq in (101, 102, 103)]
    finally:
        stop.set()
        thread.join()
        flooding.close()
    eventually(lambda: [f for f in secure.findings("flood") if f.device == "rogue"])
    assert _rss_mb() - before_mb < 80
    assert secure.manager is not None
    assert secure.manager.failure is None
    print(f"served within {max(took_s):.2f} s under a flood; {_rss_mb() - before_mb:.0f} MB more")
    honest.close()


def test_quota_is_bounded_in_memory_and_lets_bursts_through() -> None:
    now_s = 0.0
    quota = Quota(lambda: now_s)
    topic = f"edge/v1/{FLEET}/cam-1/telemetry/summary"
    assert all(quota.admits(topic, 1) for _ in range(int(BURST)))
    assert not quota.admits(topic, 1)
    assert quota.admits(f"edge/v1/{FLEET}/cam-2/telemetry/summary", 1)
    now_s = 1.0
    assert quota.admits(topic, 1)
    # Strangers share one allowance, by whatever secret they ask.
    asks = [f"edge/v1/{FLEET}/_fleet/enroll/code.{number:032x}" for number in range(1000)]
    assert sum(quota.admits(ask, 1) for ask in asks) == 500
    now_s = 3.0
    assert sum(quota.admits(ask, 1) for ask in asks) == 100, "50 a second"
    for number in range(BUCKETS_MAX + 100):
        quota.admits(f"edge/v1/{FLEET}/invented-{number}/state/x", 1)
        quota.admits("/".join("x" * (number % 9)), 0)
    assert len(quota._buckets) <= BUCKETS_MAX
    assert len(quota.take_dropped()) <= 1000


def test_announcements_in_another_devices_name_do_not_silence_it() -> None:
    quota = Quota(lambda: 0.0)
    victim = f"edge/v1/{FLEET}/victim/telemetry/summary"
    announced = sum(quota.admits(f"edge/v1/{FLEET}/_fleet/enroll/victim", 1) for _ in range(9000))
    assert announced == 30
    assert quota.admits(victim, 1)
    invented = sum(
        quota.admits(f"edge/v1/{FLEET}/_fleet/enroll/no-{number}", 1) for number in range(30_000)
    )
    assert invented < 20_000
    assert quota.admits(victim, 1)
    assert ("announced as victim", "too many") in quota.take_dropped()


def test_what_rogues_and_strangers_leave_retained_is_cleared(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    """A broker keeps it for ever and for everybody, on as many topics as somebody can think of."""
    peer = rogue.peer()
    own = ("telemetry/a", "event/b", "drift/c", "status/d", "blob/ask", "enroll/renew", "ask/time")
    topics = [rogue.topic(tail) for tail in own]
    topics += [f"edge/v1/{FLEET}/_fleet/enroll/invented-{number}" for number in range(20)]
    for topic in topics:
        peer.say(topic, b"litter" * 1000, retain=True)
    peer.say(rogue.topic("state/online"), b"{}", retain=True)
    context = client_context(victim.files.ca_path, reference_s=lambda: 0.0)
    for number in range(3):
        stranger = Peer(secure.ports.enroll, context, client_id=f"{number:032x}")
        ask = f"edge/v1/{FLEET}/_fleet/enroll/code.{number:032x}"
        stranger.say(ask, b"litter" * 1000, retain=True)
        stranger.close()

    def left() -> list[str]:
        watching = observer(secure)
        watching.say(f"edge/v1/{FLEET}/x/y", b"")  # only so that what is retained has come
        time.sleep(0.3)
        watching.close()
        return sorted(m.topic for m in watching.heard.queue if m.retain and b"litter" in m.payload)

    eventually(lambda: not left())
    eventually(lambda: [f for f in secure.findings("flood") if f.cls == "retained"])
    peer.close()


def test_too_large_a_message_ends_its_own_connection_alone(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    peer, honest = rogue.peer(), victim.peer()
    peer.client.publish(rogue.topic("event/huge"), b"x" * (4 << 20), 1)
    eventually(lambda: peer.reasons)
    assert served(secure, victim, honest, 201, 10.0) < 10
    peer.close()
    honest.close()


def test_malformed_messages_on_every_topic_end_nothing(
    secure: SecureFleet, rogue: DeviceKit, victim: DeviceKit
) -> None:
    chance = random.Random(20261122)
    honest, peer = victim.peer(), rogue.peer()
    ask = encode_json(CertificateAsk(device="rogue", csr="-----BEGIN"))
    seeds = [
        b"",
        b"{}",
        b"[]",
        b"null",
        b"\xff\xfe",
        b"[" * 20_000,
        b'{"a":' * 20_000,
        b"\x9f" * 1000,
        b"\xdf\xff\xff\xff\xff",
        b'{"seq":1e999,"boot_id":"b","ts":1e999}',
        b'{"seq":-1,"boot_id":"' + b"x" * 100_000 + b'"}',
        b'{"schema":1,"ts":NaN}',
        event(rogue, "x", 2**63),
        event(rogue, "wrong-name", 5),
        ask,
        os.urandom(131_072),
        b"0" * 131_073,
    ]
    topics = [rogue.topic(f"{cls}/{name}") for cls in FROM_DEVICE for name in ("summary", "agent")]
    topics += [
        rogue.topic(tail)
        for tail in ("state/online", "event/x", "blob/ask", "enroll/renew", "status/update")
    ]
    topics += [f"edge/v1/{FLEET}/_fleet/enroll/rogue", f"edge/v1/{FLEET}/_fleet/enroll/no.such"]
    count = 0
    for topic in topics:
        for seed in seeds:
            flipped = bytearray(seed)
            for _ in range(min(3, len(flipped))):
                flipped[chance.randrange(len(flipped))] = chance.randrange(256)
            for payload in (seed, bytes(flipped)):
                peer.client.publish(topic, payload, 1)  # without a signature
                peer.say(topic, payload) if count % 3 == 0 else None
                count += 1
    assert served(secure, victim, honest, 301, 30.0) < 30
    assert secure.manager is not None
    assert secure.manager.failure is None
    assert secure.findings("malformed")
    assert secure.findings("bad_signature")
    assert len(secure.service.findings()) <= 1000
    print(f"{count} malformed messages on {len(topics)} topics")
    peer.close()
    honest.close()


def test_generated_settings_are_taken_by_mosquitto(secure: SecureFleet, tmp_path: Path) -> None:
    config = secure.configure_broker()
    assert check_settings(config) == []
    bad = tmp_path / "mosquitto.conf"
    bad.write_text(config.read_text().replace("acl_file", "acl_fiel"))
    assert check_settings(bad)
    # What no test can see: speed (the first), and bounds that are hours or gigabytes away.
    set_to = dict(line.split(" ", 1) for line in config.read_text().splitlines() if " " in line)
    bounds = ("max_inflight_messages", "max_queued_bytes", "persistent_client_expiration")
    assert set_to["set_tcp_nodelay"] == "true"
    assert [set_to[name] for name in bounds] == ["100", "268435456", "14d"]


def _accept_tls(listener: socket.socket, context: ssl.SSLContext) -> None:
    raw, _ = listener.accept()
    try:
        context.wrap_socket(raw, server_side=True).recv(1)
    except OSError:
        raw.close()


def _rss_mb() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no VmRSS")
