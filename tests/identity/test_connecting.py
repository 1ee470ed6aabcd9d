"""The agent's link over TLS: WebSocket, proxy, renewal, lost clocks, a shared identity."""

from __future__ import annotations

import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from edge_agent.config import MqttSection
from edge_agent.errors import AgentError
from edge_agent.identity import Identity
from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.contact import Contact, certificate_files
from edge_agent.identity.renewal import Renewal
from edge_agent.identity.tls import client_context
from edge_agent.link import Inbound, Link, LinkDown, LinkUp, SubscriptionRefused
from edge_contract.codec import decode_json, encode_json
from edge_contract.enrol_code import parse_code
from edge_contract.messages import CertificateAnswer, CertificateAsk, Enrol, EnrolAnswer
from edge_contract.topics import EVERYONE, device_filters, topic
from fleet.manager.broker_address import BrokerAddress, parse_broker_address
from fleet.manager.connection import Connected, Connection
from tests.identity.connect_proxy import ConnectProxy
from tests.identity.secure_fleet import (
    FLEET,
    HARDWARE,
    LINE,
    DeviceKit,
    SecureFleet,
    eventually,
)

pytestmark = pytest.mark.debian


class LinkUnderTest:
    """A ``Link`` of an enrolled device, and what it posted."""

    def __init__(self, kit: DeviceKit, reference_s: float = 0.0, **mqtt: Any) -> None:
        self.events: queue.Queue[Any] = queue.Queue()
        self.seen: list[Any] = []
        self.link = Link(
            kit.mqtt(**mqtt),
            f"{FLEET}/{kit.name}",
            kit.identity,
            self.events.put,
            lambda connection_id: (kit.topic("state/online"), b"{}"),
            certificate=kit.files,
            reference_s=lambda: reference_s,
        )
        self.link.start()

    def until(self, wanted: type, timeout_s: float = 10.0) -> Any:
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            try:
                event = self.events.get(timeout=left_s)
            except queue.Empty:
                break
            self.seen.append(event)
            if isinstance(event, wanted):
                return event
        pytest.fail(f"no {wanted.__name__} within {timeout_s} s, but {self.seen}")


@pytest.fixture
def open_link() -> Iterator[Callable[..., LinkUnderTest]]:
    made: list[LinkUnderTest] = []

    def make(*arguments: Any, **options: Any) -> LinkUnderTest:
        made.append(LinkUnderTest(*arguments, **options))
        return made[-1]

    yield make
    for link in made:
        link.link.stop()


@pytest.fixture
def web(tmp_path: Path) -> Iterator[SecureFleet]:
    """As ``secure``, with WebSocket listeners."""
    fleet = SecureFleet(tmp_path, websocket=True)
    try:
        fleet.start_manager()
        yield fleet
    finally:
        fleet.close()


OpenLink = Callable[..., LinkUnderTest]


def test_websocket_through_a_proxy_enrols_and_connects(
    web: SecureFleet, open_link: OpenLink
) -> None:
    proxy = ConnectProxy()
    way: dict[str, Any] = {
        "transport": "websockets",
        "proxy": f"http://user:secret@127.0.0.1:{proxy.port}",
        "port": web.ports.websocket,
        "enroll_host": "127.0.0.1",
        "enroll_port": web.ports.enroll_websocket,
    }
    kit = web.kit("cam-1")
    kit.contact(**way).enrol(parse_code(web.code()))
    link = open_link(kit, **way)
    link.until(LinkUp)
    link.link.subscribe(device_filters(FLEET, "cam-1", LINE))
    assert link.link.publish(kit.topic("event/hello"), b"x")
    targets = {f"localhost:{web.ports.websocket}", f"127.0.0.1:{web.ports.enroll_websocket}"}
    assert set(proxy.asked) == targets
    assert proxy.credentials
    proxy.close()


def test_the_manager_connects_over_a_websocket(web: SecureFleet) -> None:
    web.stop_manager()
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    address = parse_broker_address(f"wss://localhost:{web.ports.websocket}/mqtt")
    assert address == BrokerAddress("localhost", web.ports.websocket, tls=True, websocket=True)
    connection = Connection(
        address,
        f"{FLEET}/_manager",
        [f"edge/v1/{FLEET}/+/state/+"],
        inbox.put,
        web.clock,
        lambda failures: web.issuers.tls_context("_manager", failures),
    )
    connection.start()
    assert isinstance(inbox.get(timeout=10), Connected)
    connection.stop()


def test_a_clock_in_1970_connects_and_a_proven_time_refuses_an_expired_broker(
    secure: SecureFleet, open_link: OpenLink
) -> None:
    kit = secure.enrolled("cam-1")
    # 0 is what a device knows that has never heard a signed time.
    open_link(kit, reference_s=0.0).until(LinkUp)
    in_two_years = time.time() + 2 * 365 * 86400
    late = open_link(kit, reference_s=in_two_years)
    down = late.until(LinkDown)
    assert "expired" in down.reason
    assert down.tls_refused


def test_another_broker_with_another_ca_is_refused(
    secure: SecureFleet, open_link: OpenLink, tmp_path: Path
) -> None:
    kit = secure.enrolled("cam-1")
    other = SecureFleet(tmp_path / "other")
    try:
        down = open_link(kit, port=other.ports.mqtt).until(LinkDown)
        assert down.tls_refused
        assert "self" in down.reason or "verif" in down.reason or "unable" in down.reason
    finally:
        other.close()


def test_host_name_and_tls_version_are_held(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    context = client_context(kit.files.ca_path, reference_s=lambda: 0.0)
    assert context.check_hostname
    assert context.minimum_version is ssl.TLSVersion.TLSv1_2


def test_renewed_certificate_counts_only_once_it_has_connected(
    secure: SecureFleet, open_link: OpenLink
) -> None:
    kit = secure.enrolled("cam-1")
    old = kit.leaf().serial_number
    link = open_link(kit)
    link.until(LinkUp)
    renewal = _renewal(kit)
    assert renewal.ask(0.0) is None  # fresh
    link.link.subscribe([kit.topic("rsp/+")])
    assert not fleet_says_renew(link, kit)
    secure.install_issuer(days=200)
    secure.issuers.issuers = secure.issuers.issuers[-1:]  # so what the old one signed is due
    assert fleet_says_renew(link, kit)
    renewal.hint(True)
    ask = renewal.ask(0.0)
    assert ask is not None
    assert renewal.ask(10.0) is None, "a hint may not cost a message a second"
    link.link.publish(kit.topic("enroll/renew"), ask)
    answer = link.until(Inbound)
    assert answer.topic == kit.topic("rsp/certificate")
    assert renewal.answered(answer.payload)
    assert (kit.state / "identity" / "chain.next.pem").exists()
    # The broker does not know the new issuer yet: the old one keeps the device online.
    link.link.reconnect()
    link.until(LinkUp)
    assert kit.leaf().serial_number == old
    (secure.home / "broker" / "crl.pem").write_bytes(secure.issuers.crl_path.read_bytes())
    secure.reload_broker()
    link.link.reconnect()
    eventually(lambda: not (kit.state / "identity" / "chain.next.pem").exists(), 15)
    assert kit.leaf().serial_number != old


def test_a_foreign_certificate_is_never_accepted(secure: SecureFleet) -> None:
    kit, other = secure.enrolled("cam-1"), secure.enrolled("cam-2")
    chain = other.files.choose().read_text()
    renewal = _renewal(kit)
    with pytest.raises(Exception, match="expected the name shop/cam-1"):
        renewal.answered(encode_json(CertificateAnswer(accepted=True, chain=chain)))
    ask = CertificateAsk(device="cam-1", csr=other.identity.request(FLEET, "cam-1"))
    peer = kit.peer()
    peer.subscribe(kit.topic("rsp/certificate"))
    peer.say(kit.topic("enroll/renew"), encode_json(ask))
    data = peer.hears(kit.topic("rsp/certificate"))
    assert data is not None
    answer = decode_json(data, CertificateAnswer, what="answer")
    assert not answer.accepted
    assert "pinned key" in answer.reason


def _renewed(secure: SecureFleet, kit: DeviceKit) -> str:
    """A second chain for the same key, as a renewal brings it."""
    key = Ed25519PublicKey.from_public_bytes(kit.identity.public)
    _, chain = secure.issuers.sign(kit.name, key, now_s=time.time(), life_s=3600.0)
    return chain


def test_power_cut_at_any_step_of_a_renewal_leaves_a_certificate_that_works(
    secure: SecureFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = secure.enrolled("cam-1")
    place = kit.state / "identity"
    old, new = (place / "chain.pem").read_bytes(), _renewed(secure, kit)

    def power_cut(*_: object) -> None:
        raise KeyboardInterrupt

    def renew(files: CertificateFiles) -> None:
        files.accept(new)
        files.choose()
        files.connected()

    def booted() -> CertificateFiles:
        return certificate_files(kit.section, kit.identity)

    for step, left in (
        ("edge_agent.identity.certificate.write_durably", old),
        ("pathlib.Path.replace", old),
        ("edge_agent.identity.certificate.fsync_dir", new.encode()),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(step, power_cut)
            with pytest.raises(KeyboardInterrupt):
                renew(booted())
        assert (place / "chain.pem").read_bytes() == left
        for _ in range(2):
            assert booted().choose().read_bytes() in (old, new.encode())
        (place / "chain.next.pem").unlink(missing_ok=True)
    assert kit.peer().connects == 1


def test_truncated_certificates_give_way_to_the_other_and_then_to_the_pinned_key(
    secure: SecureFleet, open_link: OpenLink
) -> None:
    kit = secure.enrolled("cam-1")
    current, following = (kit.state / "identity" / f"chain{s}.pem" for s in ("", ".next"))
    whole, renewed = current.read_bytes(), _renewed(secure, kit)
    for size in range(0, len(whole) - 30, 97):
        current.write_bytes(whole)
        following.write_bytes(whole[:size])
        assert [kit.files.choose() for _ in range(3)] == [current] * 3
        following.write_text(renewed)
        current.write_bytes(whole[:size])
        assert [kit.files.choose() for _ in range(3)] == [following] * 3
    following.unlink()
    assert kit.files.lost
    down = open_link(kit).until(LinkDown)
    assert down.tls_refused, "so that the pinned key is shown instead"
    assert "lost or damaged" in down.reason
    assert kit.contact().recertify()
    assert open_link(kit).until(LinkUp)


@pytest.mark.parametrize("damage", [b"", b"-----BEGIN CERTIFICATE-----\nAAAA\n"])
def test_a_damaged_ca_is_told_as_such_and_a_code_mends_it(
    secure: SecureFleet, open_link: OpenLink, damage: bytes
) -> None:
    kit = secure.enrolled("cam-1")
    kit.files.ca_path.write_bytes(damage)
    down = open_link(kit).until(LinkDown)
    assert "get a code, and run: edge-agent enroll" in down.reason
    kit.enrol(secure.service.replace_device("cam-1", who="test"))
    assert open_link(kit).until(LinkUp)


def test_tls_failing_for_long_asks_on_the_enrolment_listener(secure: SecureFleet) -> None:
    kit = secure.enrolled("cam-1")
    kit.files.choose().unlink()
    renewal = _renewal(kit, recertify_after_s=5.0)
    renewal.refused(100.0)
    renewal.tick(101.0)
    assert not kit.files.enrolled
    renewal.tick(106.0)
    eventually(lambda: kit.files.enrolled)


def test_two_agents_with_one_identity_say_so_and_do_not_fight(
    secure: SecureFleet, open_link: OpenLink
) -> None:
    kit = secure.enrolled("cam-1")
    first = open_link(kit)
    first.until(LinkUp)
    second = open_link(kit)
    second.until(LinkUp)
    eventually(lambda: any(e.shared for e in _downs(first) + _downs(second)), 20)
    time.sleep(4)  # both have noticed by now, and wait
    before = len(first.events.queue) + len(second.events.queue)
    time.sleep(5)
    assert len(first.events.queue) + len(second.events.queue) <= before + 2
    down = next(e for e in _downs(first) + _downs(second) if e.shared)
    assert "another agent connects with this device's identity" in down.reason


def test_a_refused_subscription_is_posted_with_the_filters_that_are_deaf(tmp_path: Path) -> None:
    filters = device_filters(FLEET, "cam-1", LINE)
    codes = bytes([0x87] + [1] * (len(filters) - 1))
    with _scripted_broker(bytes([0x90, 3 + len(codes), 0, 1, 0]) + codes) as port:
        link, events = _plain_link(tmp_path, port)
        assert isinstance(events.get(timeout=5), LinkUp)
        link.subscribe(filters)
        refused = events.get(timeout=5)
        link.stop()
    assert refused == SubscriptionRefused((f"edge/v1/{FLEET}/cam-1/desired/+",), "Not authorized")


@pytest.mark.parametrize(
    ("code", "shared", "says"),
    [(0x8E, True, "a name of its own"), (0x80, False, "gave no reason; if that repeats")],
)
def test_an_end_by_the_broker_says_what_it_means(
    tmp_path: Path, code: int, shared: bool, says: str
) -> None:
    with _scripted_broker(bytes([0xE0, 2, code, 0])) as port:
        link, events = _plain_link(tmp_path, port)
        assert isinstance(events.get(timeout=5), LinkUp)
        link.subscribe(["a/b"])
        down = events.get(timeout=5)
        link.stop()
    assert isinstance(down, LinkDown)
    assert down.shared == shared
    assert says in down.reason


@contextmanager
def _scripted_broker(answer: bytes) -> Iterator[int]:
    """Accepts a client, and answers the first thing that it says after that."""

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(65536)
            client.sendall(bytes([0x20, 3, 0, 0, 0]))
            client.recv(65536)
            client.sendall(answer)
            client.recv(65536)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]


def _plain_link(tmp_path: Path, port: int) -> tuple[Link, queue.Queue[Any]]:
    events: queue.Queue[Any] = queue.Queue()
    link = Link(
        MqttSection(host="127.0.0.1", port=port),
        f"{FLEET}/cam-1",
        Identity(tmp_path / "key.pem"),
        events.put,
        lambda connection_id: ("edge/will", b"{}"),
    )
    link.start()
    return link, events


def test_without_enrolment_nothing_is_sent_in_the_clear(
    secure: SecureFleet, open_link: OpenLink
) -> None:
    kit = secure.kit("cam-9")
    down = open_link(kit).until(LinkDown)
    assert "edge-agent enroll" in down.reason
    with pytest.raises(AgentError, match="knows no CA"):
        kit.contact().recertify()
    kit.files.keep_ca(secure.issuers.ca_pem, secure.issuers.ca_fingerprint)
    with pytest.raises(AgentError, match="no enrolment server"):
        kit.contact(enroll_port=1).recertify()


def _downs(link: LinkUnderTest) -> list[LinkDown]:
    return [e for e in list(link.events.queue) if isinstance(e, LinkDown)]


def fleet_says_renew(link: LinkUnderTest, kit: DeviceKit) -> bool:
    """Announce the device, as its agent does with every connection; the manager's hint."""
    body = Enrol(
        device=kit.name,
        hardware=HARDWARE,
        line=LINE,
        public=kit.identity.public.hex(),
        agent_version="1",
    )
    link.link.publish(topic(FLEET, EVERYONE, "enroll", kit.name), encode_json(body))
    answer = link.until(Inbound)
    assert answer.topic == kit.topic("rsp/enrol")
    return decode_json(answer.payload, EnrolAnswer, what="answer").renew


def _renewal(kit: DeviceKit, **options: Any) -> Renewal:
    def contact() -> Contact:
        return kit.contact()

    return Renewal(kit.files, kit.identity, (FLEET, kit.name), contact, lambda: 0.0, **options)
