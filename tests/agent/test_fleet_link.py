"""What the agent says to the fleet by itself, and that every byte of it is counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.fleet_link import SPENT_PAUSE_S
from edge_agent.identity.certificate import CertificateFiles
from edge_agent.identity.renewal import ASK_EVERY_S
from edge_agent.link import LinkDown
from edge_agent.transfer.budget import (
    CONNECT_BYTES,
    PING_BYTES,
    message_bytes,
)
from edge_agent.transfer.http_source import HttpBlock, HttpFailed
from edge_contract.codec import decode_json, encode_json
from edge_contract.digest import digest_of
from edge_contract.messages import BlobBlock, CertificateAsk, EnrolAnswer
from edge_contract.topics import topic
from fleet.identity.authority import DAY_S
from tests.agent.still_agent import DEVICE, FLEET, StillAgent, still_agent
from tests.attacks.test_identity_codes import NOW_S, Desk, desk, installed

__all__ = ["desk", "installed"]
RENEW = "enroll/renew"
METERED = {"metered": True, "budget_mb_per_day": 10.0}


@pytest.fixture
def enrolled(tmp_path: Path, desk: Desk) -> Iterator[StillAgent]:
    """A connected agent whose certificate the manager's desk gave it at ``NOW_S``."""
    with still_agent(tmp_path / "device", mqtt={"host": "localhost", "tls": True}) as device:
        code = desk.code()
        answer = desk.ask(code, csr=device.identity.request(FLEET, DEVICE)).answer
        ca = desk.desk.issuers.ca_pem
        files = certificate(device)
        files.keep_ca(ca, code.ca)
        assert files.accept(answer.chain)
        device.connect()
        yield device


def certificate(device: StillAgent) -> CertificateFiles:
    renewal = device.agent.fleet._renewal
    assert renewal is not None
    return renewal._files


def proves(device: StillAgent, ts: float) -> None:
    """A signed time reached the device."""
    desk = device.agent.desk
    desk._floor = desk._floor.raised_to(ts)


def test_at_two_thirds_of_its_life_the_certificate_is_asked_for_and_taken_into_use(
    enrolled: StillAgent, desk: Desk
) -> None:
    files = certificate(enrolled)
    begin_s, end_s = files.life_s() or (0.0, 0.0)
    due_s = begin_s + (end_s - begin_s) * 2 / 3
    row = desk.row(DEVICE)
    assert row is not None
    enrolled.pass_s(1.0)
    assert enrolled.wire.take(RENEW) == [], "a clock in 1970 knows of nothing"
    proves(enrolled, due_s - 60)
    enrolled.pass_s(1.0)
    assert enrolled.wire.take(RENEW) == []
    with desk.store.read() as tx:
        assert not desk.desk.due(tx, row, due_s - 60)
        assert desk.desk.due(tx, row, due_s + 60), "the manager counts as the device does"
    proves(enrolled, due_s + 60)
    enrolled.pass_s(1.0)
    (payload,) = enrolled.wire.take(RENEW)
    enrolled.pass_s(ASK_EVERY_S - 1)
    assert enrolled.wire.take(RENEW) == [], "once an hour"
    enrolled.pass_s(1.0)
    assert len(enrolled.wire.take(RENEW)) == 1
    ask = decode_json(payload, CertificateAsk, what="ask")
    with desk.store.write() as tx:
        answer = desk.desk.renew(tx, row, ask, due_s + 60).answer
    name = topic(FLEET, DEVICE, "rsp", "certificate")
    enrolled.hear(name, encode_json(answer), signed=True)
    assert enrolled.wire.came_back == 1
    assert certificate(enrolled).choose().name == "chain.next.pem"
    life = files.life_s()
    assert life is not None
    assert life[1] > end_s + DAY_S
    enrolled.pass_s(2 * ASK_EVERY_S)
    assert enrolled.wire.take(RENEW) == []


def test_the_fleet_s_word_renews_where_the_device_knows_no_time(enrolled: StillAgent) -> None:
    for renew in (False, True):
        answer = encode_json(EnrolAnswer(accepted=True, reason="", renew=renew))
        enrolled.hear(topic(FLEET, DEVICE, "rsp", "enrol"), answer)
        enrolled.pass_s(1.0)
        assert len(enrolled.wire.take(RENEW)) == renew
    assert enrolled.agent.desk.reference_s() < NOW_S


# --- bytes ------------------------------------------------------------------------------------


def test_connections_keepalives_and_blocks_over_http_are_counted(tmp_path: Path) -> None:
    sections = {"link": METERED, "transfer": {"http": "https://127.0.0.1:1/blobs"}}
    with still_agent(tmp_path, **sections) as device:
        budget, agent = device.parts.budget, device.agent

        def spent(said_count: int = 0) -> int:
            """Since the last call, but for messages, which are counted by their size."""
            nonlocal before
            said, device.wire.said = device.wire.said, []
            messages = sum(message_bytes(name, len(data) + 110) for name, data in said)
            found, before = budget.spent_bytes - before - messages, budget.spent_bytes
            return found

        before = budget.spent_bytes
        agent.fleet.connected("c1")
        assert spent() == CONNECT_BYTES
        device.pass_s(0.0)
        assert spent() == PING_BYTES
        device.pass_s(300.0)
        assert spent() == 0, "a metered link pings every 600 s"
        device.pass_s(300.0)
        assert spent() == PING_BYTES
        agent.fleet.disconnected(LinkDown("certificate expired", tls_refused=True))
        assert spent() == CONNECT_BYTES, "a handshake that fails is one all the same"
        agent.fleet.disconnected(LinkDown("no broker answers"))
        assert spent() == 0
        block = BlobBlock(digest=digest_of(b"x"), offset_bytes=0, size_bytes=4096, data=bytes(4096))
        agent._http_block(HttpBlock(block, 5000))
        assert spent() == message_bytes("", 5000, qos=0)
        agent._http_failed(HttpFailed("no such page", 700))
        assert spent() == message_bytes("", 700, qos=0), "nor is what came to nothing free"
        agent.fleet.disconnected(LinkDown("cut off", unread_bytes=5000))
        assert spent() == message_bytes("", 5000, qos=0), "nor what was cut off"


def test_a_metered_device_comes_back_slowly_once_its_day_is_spent(tmp_path: Path) -> None:
    with still_agent(tmp_path, link=METERED) as device:
        budget = device.parts.budget
        budget.spend(budget.limit_bytes - 1)
        device.pass_s(0.0)
        assert device.wire.pause_s == 0
        budget.spend(1)
        device.pass_s(0.0)
        assert device.wire.pause_s == SPENT_PAUSE_S
        device.pass_s(25 * 3600.0)
        assert device.wire.pause_s == 0
