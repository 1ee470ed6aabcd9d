"""What a device asks the broker for: each root that it lacks, a changed set, nothing twice."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import edge_agent.trust.verifier
from edge_agent.metadata_pull import (
    DAY_S,
    RETRY_FIRST_S,
    RETRY_MAX_S,
    ROOT_WAIT_S,
    VAIN_SHARE,
    MetadataPull,
)
from edge_agent.orders import GRACE_S
from edge_agent.refusal import Refusal
from edge_agent.transfer.budget import ByteBudget, message_bytes
from edge_agent.trust.order import AcceptedOrder
from edge_contract.codec import encode_json
from edge_contract.errors import ContractError, TrustError
from edge_contract.metadata import (
    MetadataHead,
    decode_metadata_set,
    encode_metadata_set,
    parts_digest,
    retained,
)
from edge_contract.topics import metadata_topic, parse_topic
from tests.agent.test_order_desk import open_desk
from tests.trust.tuf_simulator import LINE, NOW_S, Publisher

HEAD = f"head.{LINE}"
LIMIT_BYTES = 1_000_000


def head_of(publisher: Publisher, **changes: object) -> bytes:
    value = retained(publisher.metadata_set())
    fields: dict[str, object] = {
        "line": LINE,
        "root_version": len(publisher.roots),
        "digest": parts_digest(value),
    }
    return encode_json(MetadataHead(**{**fields, **changes}))  # type: ignore[arg-type]


class Wire:
    """A broker that retains, a device on it, and every byte that went between them."""

    def __init__(self, home: Path, publisher: Publisher, limit_bytes: int = 0) -> None:
        self.publisher = publisher
        self.retained: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.subscribed: set[str] = set()
        self.now_s = 0.0
        self.silent = False
        self.home = home
        self.desk = open_desk(home, publisher)
        self.budget = ByteBudget(home / "count", limit_bytes, lambda: self.now_s, "boot")
        self.pull = self.new_pull()
        self.publish()

    def new_pull(self) -> MetadataPull:
        return MetadataPull(
            "shop",
            LINE,
            self.desk,
            self.budget,
            subscribe=self._subscribe,
            unsubscribe=lambda name: self.subscribed.discard(parse_topic(name).name),
        )

    def publish(self) -> None:
        for version, root in enumerate(self.publisher.roots, 1):
            self.retained[f"root.{version}"] = root
        self.retained[LINE] = encode_metadata_set(retained(self.publisher.metadata_set()))
        self.retained[HEAD] = head_of(self.publisher)

    def connect(self, lost_bytes: int = 0) -> list[str]:
        """Connect anew; what was asked for."""
        self.asked.clear()
        self.subscribed.clear()
        self.budget.spend(lost_bytes)
        self.pull.disconnected(self.now_s, lost_bytes)
        self.give(HEAD)
        return list(self.asked)

    def give(self, name: str) -> Refusal | None:
        payload = self.retained[name]
        self.budget.spend(message_bytes(metadata_topic("shop", name), len(payload)))
        refusal = self.pull.inbound(name, payload, self.now_s)
        while not self.silent and self.subscribed:
            found = [name for name in self.subscribed if name in self.retained]
            if not found:
                break
            refusal = self.give(found[0]) or refusal
        return refusal

    def wait(self, seconds: float) -> list[str]:
        self.asked.clear()
        self.now_s += seconds
        self.pull.tick(self.now_s)
        for name in list(self.subscribed):
            if name in self.retained and not self.silent:
                self.give(name)
        return list(self.asked)

    def obeys(self, seq: int) -> bool:
        self.desk.desired(self.publisher.order(seq=seq), self.now_s)
        return isinstance(self.desk.decide(self.now_s), AcceptedOrder)

    def _subscribe(self, name: str) -> None:
        self.asked.append(parse_topic(name).name)
        self.subscribed.add(self.asked[-1])


@pytest.fixture
def wire(tmp_path: Path) -> Wire:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return Wire(tmp_path, publisher, LIMIT_BYTES)


def test_a_set_comes_once_however_often_a_device_connects_or_restarts(wire: Wire) -> None:
    assert wire.connect() == [LINE]
    assert wire.obeys(1)
    before = wire.budget.spent_bytes
    for _ in range(30):
        assert wire.connect() == []
    assert wire.budget.spent_bytes - before < 30 * 600
    wire.desk = open_desk(wire.home, wire.publisher)
    wire.pull = wire.new_pull()
    assert wire.connect() == []
    assert wire.obeys(2)
    assert not wire.subscribed


def test_what_is_signed_anew_is_fetched_at_once_also_with_nothing_left_of_the_day(
    wire: Wire,
) -> None:
    wire.connect()
    wire.budget.spend(2 * LIMIT_BYTES)
    for version in ("1.1.0", "1.2.0", "1.3.0"):
        wire.publisher.approve(version)
        wire.publish()
        wire.asked.clear()
        wire.give(HEAD)
        assert wire.asked == [LINE]
        assert wire.desk.held_metadata == wire.desk._sound_store().held
        assert version in wire.desk._current().targets


def test_a_device_follows_300_roots_one_by_one_and_a_set_stays_as_small_as_before(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 300 waits for the disk are not the point here.
    monkeypatch.setattr(edge_agent.trust.verifier, "write_durably", Path.write_bytes)
    small = len(wire.retained[LINE])
    wire.connect()
    for _ in range(300):
        wire.publisher.rotate_root()
    wire.publisher.approve("2.0.0")
    wire.publish()
    assert wire.connect() == [*(f"root.{n}" for n in range(2, 302)), LINE]
    held = wire.desk.held_metadata
    assert held is not None
    assert held.root_version == 301
    assert wire.obeys(1)
    assert len(wire.retained[LINE]) < small + 500
    assert wire.connect() == []


def test_an_order_waits_while_roots_come(wire: Wire) -> None:
    wire.connect()
    for _ in range(3):
        wire.publisher.rotate_root()
    wire.publisher.approve("1.1.0")
    wire.publish()
    order = wire.publisher.order(timestamp_version_min=wire.publisher.timestamp.version)
    wire.desk.desired(order, wire.now_s)
    wire.silent = True
    wire.connect()
    for name in ("root.2", "root.3", "root.4", LINE):
        wire.now_s += GRACE_S - 1
        assert wire.desk.decide(wire.now_s) is None
        wire.give(name)
    assert isinstance(wire.desk.decide(wire.now_s), AcceptedOrder)


@pytest.mark.parametrize("lie", ["root by a stranger", "a root left out", "an old root"])
def test_no_root_counts_that_the_one_before_did_not_sign(wire: Wire, lie: str) -> None:
    wire.connect()
    wire.publisher.rotate_root()
    wire.publisher.rotate_root()
    wire.publish()
    if lie == "root by a stranger":
        stranger = Publisher()
        stranger.rotate_root()
        wire.retained["root.2"] = stranger.roots[1]
    else:
        wire.retained["root.2"] = wire.publisher.roots[2 if lie == "a root left out" else 0]
    wire.connect()
    held = wire.desk.held_metadata
    assert held is not None
    assert held.root_version == 1
    assert "root metadata refused" in wire.desk.last_refusal
    # The broker is itself again: the same head is tried again after a pause, not before.
    wire.publish()
    assert wire.wait(RETRY_FIRST_S - 1) == []
    assert wire.wait(1) == ["root.2", "root.3"]


def test_a_root_that_never_comes_keeps_no_set_away(wire: Wire) -> None:
    wire.publisher.approve("1.1.0")
    wire.publish()
    wire.retained[HEAD] = head_of(wire.publisher, root_version=9)
    assert wire.connect() == ["root.2"]
    assert wire.wait(ROOT_WAIT_S - 1) == []
    assert wire.wait(1) == [LINE]
    assert wire.obeys(1)


def test_a_head_that_lies_that_nothing_changed_only_freezes_and_the_freeze_is_noticed(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    wire.connect()
    stale = wire.retained[HEAD]
    wire.publisher.approve("1.1.0")
    wire.publish()
    wire.retained[HEAD] = stale
    assert wire.connect() == []
    monkeypatch.setattr(wire.desk, "_reference_s", lambda: NOW_S + 8 * DAY_S)
    order = wire.publisher.order(issued_at=NOW_S + 8 * DAY_S, expires=NOW_S + 9 * DAY_S)
    wire.desk.desired(order, wire.now_s)
    refusal = wire.desk.decide(wire.now_s + GRACE_S)
    assert isinstance(refusal, Refusal)
    assert "the metadata of 'digits' expires at" in refusal.reason


def test_a_broker_that_flips_the_head_costs_a_tenth_of_a_metered_day_and_no_more(
    wire: Wire,
) -> None:
    wire.connect()
    wire.budget.spend(LIMIT_BYTES)  # what else went over the link that day changes nothing
    before, heads, fetches = wire.budget.spent_bytes, 0, 0
    for flip in range(200):
        wire.retained[HEAD] = head_of(wire.publisher, digest=f"sha256:{flip:064x}")
        wire.asked.clear()
        wire.give(HEAD)
        fetches += len(wire.asked)
        heads += message_bytes(metadata_topic("shop", HEAD), len(wire.retained[HEAD]))
    assert fetches > 5
    one = message_bytes(metadata_topic("shop", LINE), len(wire.retained[LINE])) + 1_000
    cost = wire.budget.spent_bytes - before - heads
    assert VAIN_SHARE * LIMIT_BYTES - one < cost <= VAIN_SHARE * LIMIT_BYTES + one
    # The broker is itself again: the device is back with the day, whatever else was sent in it.
    wire.publisher.approve("1.1.0")
    wire.publish()
    wire.asked.clear()
    wire.give(HEAD)
    assert wire.asked == []
    wire.budget.spend(LIMIT_BYTES)
    assert wire.wait(DAY_S) == [LINE]
    assert "1.1.0" in wire.desk._current().targets


def test_a_set_that_is_refused_is_tried_again_ever_more_rarely_also_over_reconnects(
    wire: Wire,
) -> None:
    stranger = Publisher()
    stranger.approve("6.6.6")
    wire.retained[LINE] = encode_metadata_set(retained(stranger.metadata_set()))
    assert wire.connect() == [LINE]
    assert wire.connect() == []
    pauses = []
    for _ in range(9):
        waited = 0.0
        while not wire.wait(RETRY_FIRST_S):
            waited += RETRY_FIRST_S
            wire.connect()
        pauses.append(waited + RETRY_FIRST_S)
    assert pauses[:3] == [RETRY_FIRST_S, 2 * RETRY_FIRST_S, 4 * RETRY_FIRST_S]
    assert pauses[-1] == RETRY_MAX_S
    wire.publish()
    wire.wait(RETRY_MAX_S)
    assert wire.obeys(1)


def test_fetches_that_are_cut_off_again_and_again_are_rare_on_a_metered_link(wire: Wire) -> None:
    wire.silent = True
    asked_count = len(wire.connect())
    for _ in range(2 * 24 * 60):
        wire.now_s += 60.0
        asked_count += len(wire.connect(lost_bytes=30_000 if wire.subscribed else 0))
    assert 4 <= asked_count <= 2 * (VAIN_SHARE * LIMIT_BYTES / 30_000 + 1)
    wire.silent = False
    wire.wait(DAY_S)
    assert wire.obeys(1)


def test_without_a_budget_a_cut_off_fetch_begins_anew_with_the_connection(tmp_path: Path) -> None:
    publisher = Publisher()
    publisher.approve("1.0.0")
    wire = Wire(tmp_path, publisher)
    wire.silent = True
    for _ in range(5):
        assert wire.connect() == [LINE]


def test_a_full_disk_keeps_what_was_and_asks_again_later(
    wire: Wire, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    before = wire.desk.held_metadata
    with monkeypatch.context() as patched:
        patched.setattr(edge_agent.trust.verifier, "write_durably", full)
        with pytest.raises(OSError, match="No space"):
            wire.connect()
    assert wire.desk.held_metadata == before
    assert wire.wait(1.0) == []
    assert wire.wait(RETRY_FIRST_S) == [LINE]
    assert wire.obeys(1)


@pytest.mark.parametrize(
    "junk",
    [
        b"{}",
        b"[" * 60_000,
        b"\xff",
        b'{"schema":1,"line":"digits","root_version":1,"digest":"x"}',
        b'{"schema":1,"line":"digits","root_version":-7,"digest":"sha256:%s"}' % (b"0" * 64),
        b'{"schema":1,"line":"faces","root_version":1,"digest":"sha256:%s"}' % (b"0" * 64),
    ],
)
def test_a_malformed_head_asks_for_nothing(wire: Wire, junk: bytes) -> None:
    with pytest.raises((ContractError, TrustError)):
        wire.pull.inbound(HEAD, junk, 0.0)
    assert wire.asked == []
    wire.pull.inbound(HEAD, b"", 0.0)
    assert wire.asked == []


def test_a_damaged_store_asks_for_nothing(wire: Wire) -> None:
    wire.connect()
    (wire.home / "trust" / "trusted.json").write_bytes(b"{}")
    wire.desk = open_desk(wire.home, wire.publisher)
    wire.pull = wire.new_pull()
    assert wire.connect() == []


def test_a_set_is_told_by_its_parts_however_it_is_written(wire: Wire) -> None:
    whole = wire.publisher.metadata_set()
    again = decode_metadata_set(encode_metadata_set(whole), where="test")
    assert parts_digest(again) == parts_digest(retained(whole))
    wire.publisher.bump()
    assert parts_digest(wire.publisher.metadata_set()) != parts_digest(whole)
