"""The order desk: what waits, what is refused once, what a power cut or a damaged disk leaves."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

import edge_agent.trust.last_accepted
from edge_agent.orders import GRACE_S, OrderDesk
from edge_agent.refusal import Refusal
from edge_agent.trust.order import AcceptedOrder
from edge_contract.codec import encode_json
from edge_contract.errors import TrustError
from tests.trust.tuf_simulator import DEVICE_KEY, LINE, NOW_S, Publisher


class WrongClock:
    """A device without a battery: it believes that it is 1970."""

    def wall_s(self) -> float:
        return 12.0

    def monotonic_s(self) -> float:
        return 0.0


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return publisher


def open_desk(path: Path, publisher: Publisher) -> OrderDesk:
    return OrderDesk(
        path,
        publisher.roots[0],
        fleet="shop",
        device="cam-1",
        device_key=DEVICE_KEY,
        line=LINE,
        hardware="raspberry-pi-4",
        clock=WrongClock(),  # type: ignore[arg-type]
    )


def ready_desk(path: Path, publisher: Publisher) -> OrderDesk:
    desk = open_desk(path, publisher)
    assert desk.metadata(encode_json(publisher.metadata_set())) is None
    return desk


def test_an_order_waits_for_its_metadata_and_is_obeyed_when_it_comes(
    publisher: Publisher, tmp_path: Path
) -> None:
    desk = open_desk(tmp_path, publisher)
    desk.desired(publisher.order(), 0.0)
    assert desk.decide(1.0) is None
    assert desk.metadata(encode_json(publisher.metadata_set())) is None
    assert isinstance(desk.decide(2.0), AcceptedOrder)
    assert desk.last_refusal == ""


def test_an_order_without_metadata_is_refused_aloud_once_and_still_obeyed_later(
    publisher: Publisher, tmp_path: Path
) -> None:
    desk = open_desk(tmp_path, publisher)
    desk.desired(publisher.order(seq=3), 0.0)
    assert desk.decide(GRACE_S - 0.1) is None
    refusal = desk.decide(GRACE_S)
    assert isinstance(refusal, Refusal)
    assert refusal.claimed is not None
    assert refusal.claimed.seq == 3
    assert [desk.decide(GRACE_S + n) for n in range(3)] == [None] * 3
    desk.metadata(encode_json(publisher.metadata_set()))
    assert isinstance(desk.decide(GRACE_S + 9), AcceptedOrder)


@pytest.mark.parametrize("junk", [b"", b"{}", b"[" * 60_000, b"\xff", b'{"payload": 7}'])
def test_junk_is_a_refusal_without_a_claim(
    publisher: Publisher, tmp_path: Path, junk: bytes
) -> None:
    desk = ready_desk(tmp_path, publisher)
    desk.desired(junk, 0.0)
    refusal = desk.decide(GRACE_S)
    assert isinstance(refusal, Refusal)
    assert refusal.claimed is None


def test_a_repeat_is_nothing_new_also_after_a_restart(publisher: Publisher, tmp_path: Path) -> None:
    envelope = publisher.order(seq=5)
    desk = ready_desk(tmp_path, publisher)
    desk.desired(envelope, 0.0)
    assert isinstance(desk.decide(0.0), AcceptedOrder)
    again = ready_desk(tmp_path, publisher)
    again.desired(envelope, 0.0)
    assert again.decide(0.0, begun=(1, 5)) is None
    assert (again.desired_epoch, again.desired_seq) == (1, 5)


def test_power_cut_between_order_and_journal_does_not_lose_the_order(
    publisher: Publisher, tmp_path: Path
) -> None:
    envelope = publisher.order(seq=5)
    desk = ready_desk(tmp_path, publisher)
    desk.desired(envelope, 0.0)
    assert isinstance(desk.decide(0.0, begun=(1, 4)), AcceptedOrder)
    # The power goes here: the update machine's journal never heard of number 5.
    again = ready_desk(tmp_path, publisher)
    again.desired(envelope, 0.0)
    handed = again.decide(0.0, begun=(1, 4))
    assert isinstance(handed, AcceptedOrder)
    assert handed.desired.seq == 5


def test_a_full_disk_does_not_lose_the_order(
    publisher: Publisher, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk = ready_desk(tmp_path, publisher)
    desk.desired(publisher.order(), 0.0)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(edge_agent.trust.last_accepted, "write_durably", full)
        with pytest.raises(OSError, match="No space"):
            desk.decide(0.0)
    assert isinstance(desk.decide(1.0), AcceptedOrder)


@pytest.mark.parametrize("name", ["trusted.json", "time-floor.json", "last-order.json"])
@pytest.mark.parametrize("damage", [b"", b"\x5a\x5a", b"{}"])
def test_damaged_trust_files_refuse_orders_and_raise_nothing(
    publisher: Publisher, tmp_path: Path, name: str, damage: bytes
) -> None:
    desk = ready_desk(tmp_path, publisher)
    desk.desired(publisher.order(), 0.0)
    desk.decide(0.0)
    (tmp_path / "trust" / name).write_bytes(damage)
    broken = open_desk(tmp_path, publisher)
    assert broken.damage is not None
    assert name in broken.damage.hint
    broken.metadata(encode_json(publisher.metadata_set()))
    broken.desired(publisher.order(seq=9), 0.0)
    refusal = broken.decide(GRACE_S)
    assert isinstance(refusal, Refusal)
    assert "what runs keeps running" in refusal.reason
    with pytest.raises(TrustError):
        broken.target("1.0.0", "sha256:" + "0" * 64)
    # Nothing was begun anew over it.
    assert (tmp_path / "trust" / name).read_bytes() == damage


def test_metadata_of_another_line_or_by_strangers_changes_nothing(
    publisher: Publisher, tmp_path: Path
) -> None:
    desk = ready_desk(tmp_path, publisher)
    stranger = Publisher()
    stranger.approve("6.6.6")
    assert isinstance(desk.metadata(encode_json(stranger.metadata_set())), Refusal)
    other = publisher.metadata_set(line="faces")
    assert isinstance(desk.metadata(encode_json(other)), Refusal)
    desk.desired(publisher.order(), 0.0)
    assert isinstance(desk.decide(0.0), AcceptedOrder)


def test_a_device_in_1970_still_obeys_what_is_in_force(
    publisher: Publisher, tmp_path: Path
) -> None:
    desk = ready_desk(tmp_path, publisher)
    desk.desired(publisher.order(issued_at=NOW_S, expires=NOW_S + 60), 0.0)
    assert isinstance(desk.decide(0.0), AcceptedOrder)
    desk.desired(publisher.order(seq=2, issued_at=NOW_S - 500, expires=NOW_S - 1), 0.0)
    assert isinstance(desk.decide(GRACE_S), Refusal)


def test_live_messages_count_only_with_a_director_key(publisher: Publisher, tmp_path: Path) -> None:
    from edge_contract.signing import sign_message

    desk = ready_desk(tmp_path, publisher)
    topic, payload = "edge/v1/shop/cam-1/rsp/ack", b"{}"
    good = sign_message(publisher.keys["director"][0], topic, payload)
    desk.verify_director(topic, payload, good)
    bad = (
        (topic, payload, ""),
        (topic, payload, "ünïcödé"),
        (topic, b"{} ", good),
        ("edge/v1/shop/cam-2/rsp/ack", payload, good),
        (topic, payload, sign_message(publisher.keys["targets"][0], topic, payload)),
    )
    for wrong in bad:
        with pytest.raises(TrustError):
            desk.verify_director(*wrong)
