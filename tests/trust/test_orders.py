"""Which ``desired`` documents a device obeys, and what moves its time floor."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from edge_agent.errors import DamagedTrustError
from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.commands import load_nonces
from edge_agent.trust.last_accepted import load_last_medium, load_last_order
from edge_agent.trust.order import AcceptedOrder, DeviceFacts, accept_order
from edge_agent.trust.time_floor import TimeFloor, load_floor, save_floor
from edge_agent.trust.verifier import TrustStore
from edge_contract.digest import digest_of
from edge_contract.errors import ContractError, TrustError
from edge_contract.signing import sign_document
from tests.trust.tuf_simulator import DAY_S, DEVICE_KEY, LINE, NOW_S, Publisher

FACTS = DeviceFacts(
    fleet="shop",
    device="cam-1",
    device_key=DEVICE_KEY,
    line=LINE,
    hardware="raspberry-pi-4",
    reference_s=NOW_S - 10,
)


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return publisher


@pytest.fixture
def approved(publisher: Publisher, tmp_path: Path) -> ApprovedLine:
    return approve(publisher, tmp_path)


def approve(publisher: Publisher, tmp_path: Path) -> ApprovedLine:
    store = TrustStore(tmp_path, root=publisher.roots[0])
    return store.verify(publisher.metadata_set(), reference_s=NOW_S - 10)


def after(accepted: AcceptedOrder, facts: DeviceFacts = FACTS) -> DeviceFacts:
    return replace(facts, last=accepted.last)


def test_good_order_names_the_approved_bundle(publisher: Publisher, approved: ApprovedLine) -> None:
    accepted = accept_order(publisher.order(seq=7), approved, FACTS)
    assert accepted.target == approved.targets["1.0.0"]
    assert (accepted.last.epoch, accepted.last.seq, accepted.repeat) == (1, 7, False)
    assert accepted.issued_at == NOW_S


def test_same_order_again_is_a_repeat_and_no_error(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    order = publisher.order()
    first = accept_order(order, approved, FACTS)
    late = replace(after(first), reference_s=NOW_S + 400 * DAY_S)
    for facts in (after(first), late):
        again = accept_order(order, approved, facts)
        assert again.repeat
        assert again.target is None
        assert again.last == first.last


@pytest.mark.parametrize(("epoch", "seq"), [(1, 5), (1, 4)])
def test_replayed_or_reused_sequence_is_refused(
    epoch: int, seq: int, publisher: Publisher, approved: ApprovedLine
) -> None:
    facts = after(accept_order(publisher.order(epoch=1, seq=5), approved, FACTS))
    order = publisher.order(epoch=epoch, seq=seq, rollout="another")
    with pytest.raises(TrustError, match="replay: expected an order after epoch 1 seq 5"):
        accept_order(order, approved, facts)


def test_epoch_raised_by_offline_keys_lets_the_sequence_begin_again(
    publisher: Publisher, approved: ApprovedLine, tmp_path: Path
) -> None:
    facts = after(accept_order(publisher.order(epoch=1, seq=2**62), approved, FACTS))
    publisher.name_director(epoch=2)
    publisher.bump()
    renewed = approve(publisher, tmp_path)
    accepted = accept_order(publisher.order(epoch=2, seq=1), renewed, facts)
    assert (accepted.last.epoch, accepted.last.seq) == (2, 1)
    with pytest.raises(TrustError, match="epoch 1 is over: offline keys signed epoch 2"):
        accept_order(publisher.order(epoch=1, seq=2**62 + 1), renewed, after(accepted))


def test_director_cannot_raise_the_epoch_by_itself(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    with pytest.raises(TrustError, match="epoch 9 was not begun by offline keys"):
        accept_order(publisher.order(epoch=9), approved, FACTS)


def test_floor_of_the_line_governs_new_installs_only(publisher: Publisher, tmp_path: Path) -> None:
    publisher.line.unrecognized_fields["x-wherry-min-release"] = "1.1.0-rc.2"
    publisher.approve("1.1.0-rc.10")
    approved = approve(publisher, tmp_path)
    with pytest.raises(TrustError, match=r"downgrade: digits 1\.0\.0 is below .* 1\.1\.0-rc\.2"):
        accept_order(publisher.order(version="1.0.0"), approved, FACTS)
    assert accept_order(publisher.order(version="1.1.0-rc.10"), approved, FACTS).target
    holder = replace(FACTS, held=frozenset({digest_of(b"{}")}))
    assert accept_order(publisher.order(version="1.0.0"), approved, holder).target


@pytest.mark.parametrize("floor", [7, "newest", ["1.0.0"], "1.0"])
def test_malformed_floor_is_refused_and_never_reads_as_none(
    floor: object, publisher: Publisher, tmp_path: Path
) -> None:
    publisher.line.unrecognized_fields["x-wherry-min-release"] = floor
    publisher.approve("1.1.0")
    with pytest.raises(ContractError):
        approve(publisher, tmp_path)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"device": "cam-2"}, "it is for device 'cam-2', this is 'cam-1'"),
        ({"device_key": "f" * 64}, "it is for device key"),
        ({"fleet": "farm"}, "it is for fleet 'farm'"),
        ({"line": "faces"}, "it is for line 'faces'"),
        ({"hardware": "jetson-orin-nano"}, "on hardware 'jetson-orin-nano'"),
        ({"expires": NOW_S - 1}, "expired at"),
        ({"expires": NOW_S}, "expired at"),
        ({"timestamp_version_min": 99}, "the device's metadata is held back"),
        ({"issued_at": NOW_S + 8 * DAY_S, "expires": NOW_S + 9 * DAY_S}, "the metadata of"),
        ({"issued_at": NOW_S + 31 * DAY_S, "expires": NOW_S + 99 * DAY_S}, "has expired by"),
        ({"version": "6.6.6"}, "is not approved"),
        ({"manifest_digest": digest_of(b"malware")}, "is approved as"),
    ],
)
def test_order_for_something_else_is_refused_with_its_reason(
    change: dict[str, object], reason: str, publisher: Publisher, approved: ApprovedLine
) -> None:
    with pytest.raises(TrustError, match=reason):
        accept_order(publisher.order(**change), approved, FACTS)


def test_order_expires_by_the_device_s_reference_time(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    late = replace(FACTS, reference_s=NOW_S + 2 * DAY_S)
    with pytest.raises(TrustError, match="order refused: expired at"):
        accept_order(publisher.order(), approved, late)


def test_order_of_a_strange_director_is_refused(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    with pytest.raises(TrustError, match="no signature by a trusted key"):
        accept_order(publisher.order(), approved, FACTS)


def test_expired_director_key_gives_no_orders(publisher: Publisher, tmp_path: Path) -> None:
    publisher.name_director(expires=NOW_S - 5)
    publisher.bump()
    with pytest.raises(TrustError, match="may not give orders"):
        accept_order(publisher.order(), approve(publisher, tmp_path), FACTS)


def test_director_of_another_fleet_gives_no_orders(publisher: Publisher, tmp_path: Path) -> None:
    publisher.name_director(fleet="farm")
    publisher.bump()
    with pytest.raises(TrustError, match="may not give orders for fleet 'shop'"):
        accept_order(publisher.order(), approve(publisher, tmp_path), FACTS)


def test_stolen_director_key_is_refused_once_revoked(
    publisher: Publisher, approved: ApprovedLine, tmp_path: Path
) -> None:
    stolen = publisher.keys["director"]
    assert accept_order(publisher.order(), approved, FACTS)
    publisher.keys["director"] = [Ed25519PrivateKey.generate()]
    publisher.name_director()
    publisher.bump()
    renewed = approve(publisher, tmp_path)
    publisher.keys["director"] = stolen
    with pytest.raises(TrustError, match="no signature by a trusted key"):
        accept_order(publisher.order(seq=2), renewed, FACTS)


def test_stolen_director_key_cannot_push_time_past_what_offline_keys_signed(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    far = publisher.order(issued_at=2_145_916_800.0, expires=2_145_920_000.0)
    with pytest.raises(TrustError, match="order refused"):
        accept_order(far, approved, FACTS)


def test_envelope_of_another_type_or_shape_is_refused(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    key = publisher.keys["director"][0]
    for envelope in (b"", b"{}", b"[" * 100_000, sign_document(key, "text/plain", b"{}")):
        with pytest.raises(ContractError):
            accept_order(envelope, approved, FACTS)


def test_order_with_a_number_beyond_range_is_malformed(
    publisher: Publisher, approved: ApprovedLine
) -> None:
    key = publisher.keys["director"][0]
    payload = b'{"seq":1e999}'
    with pytest.raises(ContractError):
        accept_order(
            sign_document(key, "application/vnd.wherry.desired+json", payload), approved, FACTS
        )


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(seqs=st.lists(st.integers(0, 6), max_size=12))
def test_accepted_sequences_only_ever_grow(
    publisher: Publisher, approved: ApprovedLine, seqs: list[int]
) -> None:
    facts, taken = FACTS, []
    for number, seq in enumerate(seqs):
        order = publisher.order(seq=seq, rollout=f"r{number}")
        try:
            accepted = accept_order(order, approved, facts)
        except TrustError:
            continue
        taken.append(seq)
        facts = after(accepted, facts)
    assert taken == sorted(set(taken))
    assert seqs == [] or taken[-1] == max(seqs)


# --- time ------------------------------------------------------------------------------------


@given(st.lists(st.floats(0, 1e12)))
def test_floor_never_goes_down(issued: list[float]) -> None:
    floor = TimeFloor()
    for issued_at in issued:
        raised = floor.raised_to(issued_at)
        assert raised.floor_s >= max(floor.floor_s, min(issued_at, 253_402_300_799.0))
        floor = raised


def test_clock_before_the_floor_does_not_bring_expired_metadata_back() -> None:
    assert TimeFloor(NOW_S).reference_s(0.0, synchronised=True) == NOW_S


def test_clock_that_nobody_set_does_not_count() -> None:
    assert TimeFloor(NOW_S).reference_s(NOW_S + DAY_S, synchronised=False) == NOW_S


def test_ntp_jump_to_2038_stops_new_installs_only_while_it_lasts(
    publisher: Publisher, tmp_path: Path
) -> None:
    store = TrustStore(tmp_path, root=publisher.roots[0])
    floor = TimeFloor(NOW_S - 10)
    with pytest.raises(TrustError, match="expired"):
        store.verify(
            publisher.metadata_set(), reference_s=floor.reference_s(2**31, synchronised=True)
        )
    assert floor == TimeFloor(NOW_S - 10)
    reference_s = floor.reference_s(NOW_S, synchronised=True)
    assert store.verify(publisher.metadata_set(), reference_s=reference_s).targets


def test_floor_survives_a_restart_and_damage_is_not_taken_for_zero(tmp_path: Path) -> None:
    path = tmp_path / "time-floor.json"
    assert load_floor(path) == TimeFloor()
    save_floor(path, TimeFloor(NOW_S))
    assert load_floor(path) == TimeFloor(NOW_S)
    for damaged in (b"", b'{"floor_s":1e300}', b'{"floor_s":253402300800}', b'{"floor_s":-1}'):
        path.write_bytes(damaged)
        with pytest.raises(TrustError, match="new installs stop"):
            load_floor(path)


@pytest.mark.parametrize("load", [load_floor, load_last_order, load_last_medium, load_nonces])
def test_what_cannot_be_read_is_damage_and_no_crash(
    load: Callable[[Path], object], tmp_path: Path
) -> None:
    """A bad sector or another owner; a directory gives the same kind of error to every user."""
    (tmp_path / "kept.json").mkdir()
    with pytest.raises(DamagedTrustError, match="cannot read"):
        load(tmp_path / "kept.json")


def test_metadata_that_cannot_be_read_is_damage_and_no_crash(
    publisher: Publisher, tmp_path: Path
) -> None:
    (tmp_path / "trusted.json").mkdir()
    with pytest.raises(DamagedTrustError, match="cannot read"):
        TrustStore(tmp_path, root=publisher.roots[0])
