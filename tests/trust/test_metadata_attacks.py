"""The attacks of the TUF specification (1.5.2) against the device's verifier, one test each."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tuf.api.metadata import MetaFile, TargetFile

from edge_agent.trust.approved import ApprovedLine
from edge_agent.trust.verifier import TrustStore
from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.digest import digest_of
from edge_contract.errors import ContractError, TrustError
from edge_contract.metadata import MetadataSet, decode_metadata_set
from edge_contract.signing import ed25519_key, public_bytes
from tests.trust.media_simulator import MediaPublisher
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S, ROLE, Publisher, date


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return publisher


@pytest.fixture
def store(publisher: Publisher, tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path, root=publisher.roots[0])


def verify(store: TrustStore, metadata: MetadataSet, reference_s: float = NOW_S) -> ApprovedLine:
    return store.verify(metadata, reference_s=reference_s)


def restarted(tmp_path: Path) -> TrustStore:
    return TrustStore(tmp_path)


# --- what is good ----------------------------------------------------------------------------


def test_good_metadata_gives_the_approved_versions(publisher: Publisher, store: TrustStore) -> None:
    approved = verify(store, publisher.metadata_set())
    assert {v: t.digest for v, t in approved.targets.items()} == {"1.0.0": digest_of(b"{}")}
    assert approved.targets["1.0.0"].length_bytes == 2
    assert approved.timestamp_version == publisher.timestamp.version
    assert approved.expires_s == NOW_S + 7 * DAY_S
    assert approved.directors.trusted("shop", LINE, NOW_S)


def test_verified_metadata_survives_a_restart(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    assert store.approved(reference_s=NOW_S) is None
    approved = verify(store, publisher.metadata_set())
    assert restarted(tmp_path).approved(reference_s=NOW_S) == approved


def test_same_metadata_again_is_fine(publisher: Publisher, store: TrustStore) -> None:
    metadata = publisher.metadata_set()
    assert verify(store, metadata) == verify(store, metadata)


def test_python_tuf_decides_by_the_reference_time_that_we_inject(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    """ADR 0004's guard: the system clock, years before or after, plays no part.

    Sets of 2030 and of 1970 are good or expired by ``reference_s`` alone.
    """
    metadata = publisher.metadata_set()
    assert verify(store, metadata, reference_s=0.0).targets
    assert verify(store, metadata, reference_s=NOW_S + 7 * DAY_S - 1).targets
    with pytest.raises(TrustError, match="expired"):
        verify(store, metadata, reference_s=NOW_S + 7 * DAY_S)

    old = Publisher()
    old.timestamp.expires = date(10_000.0)
    old.approve("1.0.0")
    device = TrustStore(tmp_path / "old", root=old.roots[0])
    with pytest.raises(TrustError, match="timestamp metadata refused: expired"):
        verify(device, old.metadata_set(), reference_s=10_000.0)
    assert verify(device, old.metadata_set(), reference_s=9_999.0).targets


# --- rollback --------------------------------------------------------------------------------


def test_timestamp_rollback_is_refused_even_after_a_restart(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    old = publisher.metadata_set()
    publisher.approve("1.1.0")
    verify(store, publisher.metadata_set())
    for device in (store, restarted(tmp_path)):
        with pytest.raises(TrustError, match="timestamp metadata refused: rollback"):
            verify(device, old)


def test_snapshot_rollback_under_a_new_timestamp_is_refused(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    verify(store, publisher.metadata_set())
    publisher.timestamp.version += 1
    publisher.snapshot.version -= 1
    with pytest.raises(TrustError, match=r"rollback.*snapshot version must be"):
        verify(restarted(tmp_path), publisher.metadata_set())


def test_line_rollback_by_a_captured_snapshot_key_is_refused(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    publisher.approve("1.1.0")
    verify(store, publisher.metadata_set())
    del publisher.line.targets[f"{LINE}/1.1.0"]
    publisher.line.version -= 1
    publisher.bump()
    with pytest.raises(TrustError, match="snapshot metadata refused: rollback"):
        verify(restarted(tmp_path), publisher.metadata_set())


def test_line_removed_from_the_snapshot_is_refused(publisher: Publisher, store: TrustStore) -> None:
    verify(store, publisher.metadata_set())
    publisher.bump()
    good = publisher.metadata_set()
    del publisher.snapshot.meta[f"{ROLE}.json"]
    snapshot = publisher.sign("snapshot", publisher.snapshot)
    publisher.timestamp.snapshot_meta = MetaFile.from_data(
        publisher.snapshot.version, snapshot, ["sha256"]
    )
    timestamp = publisher.sign("timestamp", publisher.timestamp)
    with pytest.raises(TrustError, match="missing info"):
        verify(store, msgspec.structs.replace(good, snapshot=snapshot, timestamp=timestamp))


def test_refused_set_still_moves_the_rollback_guard(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    old = publisher.metadata_set()
    publisher.approve("1.1.0")
    tampered = msgspec.structs.replace(publisher.metadata_set(), snapshot=b"{}")
    with pytest.raises(TrustError, match="snapshot"):
        verify(store, tampered)
    with pytest.raises(TrustError, match="rollback"):
        verify(restarted(tmp_path), old)


# --- freeze ----------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets", "line"])
def test_freeze_shows_when_any_role_has_expired(
    role: str, publisher: Publisher, tmp_path: Path
) -> None:
    getattr(publisher, role).expires = date(NOW_S)
    if role == "root":
        publisher.rotate_root()
    store = TrustStore(tmp_path, root=publisher.roots[0])
    verify(store, publisher.metadata_set(), reference_s=NOW_S - 1)
    with pytest.raises(TrustError, match="expired"):
        verify(store, publisher.metadata_set())


def test_expired_metadata_gives_way_to_fresh_metadata(
    publisher: Publisher, store: TrustStore
) -> None:
    verify(store, publisher.metadata_set())
    late_s = NOW_S + 8 * DAY_S
    with pytest.raises(TrustError, match="timestamp metadata refused: expired"):
        store.approved(reference_s=late_s)
    publisher.timestamp.version += 1
    publisher.timestamp.expires = date(late_s + DAY_S)
    assert verify(store, publisher.metadata_set(), late_s).expires_s == late_s + DAY_S


# --- mix-and-match, endless data, arbitrary software -----------------------------------------


@pytest.mark.parametrize("part", ["snapshot", "targets", "line_role", "directors"])
def test_mix_and_match_of_two_editions_is_refused(
    part: str, publisher: Publisher, store: TrustStore
) -> None:
    old = publisher.metadata_set()
    publisher.name_director(expires=NOW_S + 9 * DAY_S)
    publisher.approve("1.1.0")
    mixed = msgspec.structs.replace(publisher.metadata_set(), **{part: getattr(old, part)})
    with pytest.raises(TrustError, match="mix-and-match"):
        verify(store, mixed)


def test_endless_metadata_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ContractError, match=f"at most {MESSAGE_LIMIT_BYTES} are accepted"):
        decode_metadata_set(b"[" * (MESSAGE_LIMIT_BYTES + 1), where="metadata/digits")


def test_arbitrary_software_is_not_approved(publisher: Publisher, store: TrustStore) -> None:
    approved = verify(store, publisher.metadata_set())
    with pytest.raises(TrustError, match=r"digits 6\.6\.6 is not approved"):
        approved.require("6.6.6", digest_of(b"{}"))
    with pytest.raises(TrustError, match=r"digits 1\.0\.0 is approved as sha256:"):
        approved.require("1.0.0", digest_of(b"malware"))


def test_line_key_cannot_approve_for_another_line(publisher: Publisher, store: TrustStore) -> None:
    publisher.approve("9.9.9", line="faces")
    publisher.line.targets["8.8.8"] = TargetFile.from_data("8.8.8", b"{}", ["sha256"])
    publisher.line.version += 1
    publisher.bump()
    approved = verify(store, publisher.metadata_set())
    assert set(approved.targets) == {"1.0.0"}
    with pytest.raises(TrustError, match="delegates no model line 'faces'"):
        verify(store, publisher.metadata_set(line="faces"))


def test_later_delegation_cannot_take_over_a_line(publisher: Publisher, store: TrustStore) -> None:
    publisher.keys["intruder"] = [Ed25519PrivateKey.generate()]
    publisher.delegate(LINE, "intruder")
    publisher.targets.version += 1
    publisher.bump()
    assert set(verify(store, publisher.metadata_set()).targets) == {"1.0.0"}


# --- keys ------------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_metadata_signed_by_a_strange_key_is_refused(
    role: str, publisher: Publisher, store: TrustStore
) -> None:
    publisher.keys[role] = [Ed25519PrivateKey.generate()]
    with pytest.raises(TrustError, match="not signed by a threshold"):
        verify(store, publisher.metadata_set())


def test_revoked_timestamp_key_is_refused_from_the_next_root_on(
    publisher: Publisher, store: TrustStore
) -> None:
    stolen = publisher.keys["timestamp"]
    verify(store, publisher.metadata_set())
    publisher.root.revoke_key(ed25519_key(public_bytes(stolen[0])).keyid, "timestamp")
    publisher.keys["timestamp"] = [Ed25519PrivateKey.generate()]
    publisher.root.add_key(ed25519_key(public_bytes(publisher.keys["timestamp"][0])), "timestamp")
    publisher.rotate_root()
    publisher.timestamp.version += 1
    verify(store, publisher.metadata_set())
    assert store.root_version == 2

    publisher.keys["timestamp"] = stolen
    publisher.timestamp.version += 1
    with pytest.raises(TrustError, match="timestamp metadata refused: not signed"):
        verify(store, publisher.metadata_set())
    # Holding the new root back does not help: the device has kept it.
    with pytest.raises(TrustError, match="timestamp metadata refused: not signed"):
        verify(store, msgspec.structs.replace(publisher.metadata_set(), roots=publisher.roots[:1]))


def test_fast_forward_with_a_stolen_timestamp_key_is_recovered_from(
    publisher: Publisher, store: TrustStore
) -> None:
    publisher.timestamp.version = 1_000_000
    verify(store, publisher.metadata_set())
    publisher.root.revoke_key(
        ed25519_key(public_bytes(publisher.keys["timestamp"][0])).keyid, "timestamp"
    )
    publisher.keys["timestamp"] = [Ed25519PrivateKey.generate()]
    publisher.root.add_key(ed25519_key(public_bytes(publisher.keys["timestamp"][0])), "timestamp")
    publisher.rotate_root()
    publisher.timestamp.version = 3
    assert verify(store, publisher.metadata_set()).timestamp_version == 3


def test_root_signed_below_its_threshold_is_refused(tmp_path: Path) -> None:
    publisher = Publisher(root_keys=2, root_threshold=2)
    publisher.approve("1.0.0")
    store = TrustStore(tmp_path, root=publisher.roots[0])
    publisher.keys["root"] = publisher.keys["root"][:1]
    publisher.rotate_root()
    with pytest.raises(TrustError, match="root metadata refused: not signed by a threshold"):
        verify(store, publisher.metadata_set())
    assert TrustStore(tmp_path).root_version == 1


def test_first_root_below_its_own_threshold_is_refused(tmp_path: Path) -> None:
    publisher = Publisher(root_threshold=2)
    with pytest.raises(TrustError, match="root metadata refused: not signed by a threshold"):
        TrustStore(tmp_path, root=publisher.roots[0])
    assert not (tmp_path / "trusted.json").exists()


def test_root_of_new_keys_that_the_old_did_not_sign_is_refused(
    publisher: Publisher, store: TrustStore
) -> None:
    usurper = Publisher()
    usurper.root.version = 2
    usurper.approve("1.0.0")
    forged = [publisher.roots[0], usurper.sign("root", usurper.root)]
    with pytest.raises(TrustError, match="root metadata refused: not signed"):
        verify(store, msgspec.structs.replace(usurper.metadata_set(), roots=forged))


def test_root_that_skips_a_version_is_refused(publisher: Publisher, store: TrustStore) -> None:
    publisher.root.version = 2
    publisher.rotate_root()
    with pytest.raises(TrustError, match="root metadata refused: rollback, or a version out of"):
        verify(store, publisher.metadata_set())


def test_a_device_that_missed_more_roots_than_a_file_holds_comes_back_by_a_medium(
    tmp_path: Path,
) -> None:
    publisher = MediaPublisher()
    publisher.approve("1.0.0")
    store = TrustStore(tmp_path, root=publisher.roots[0])
    for _ in range(40):
        publisher.rotate_root()
    late = publisher.metadata_set()
    cut = msgspec.structs.replace(late, roots=late.roots[-9:])
    with pytest.raises(TrustError, match="root metadata refused: rollback, or a version out of"):
        store.verify(cut, reference_s=NOW_S)
    store.verify_media(publisher.media_set(), reference_s=NOW_S)
    assert store.root_version == 41
    assert store.verify(cut, reference_s=NOW_S).targets


def test_new_root_is_kept_although_the_rest_was_refused(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    publisher.rotate_root()
    with pytest.raises(TrustError, match="timestamp"):
        verify(store, msgspec.structs.replace(publisher.metadata_set(), timestamp=b"{}"))
    assert restarted(tmp_path).root_version == 2


# --- the anchor ------------------------------------------------------------------------------


def test_device_without_a_root_trusts_nobody(tmp_path: Path) -> None:
    with pytest.raises(TrustError, match="trusts no repository yet"):
        TrustStore(tmp_path)


def test_root_of_another_repository_cannot_replace_the_one_trusted(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    with pytest.raises(TrustError, match="belongs to another repository"):
        TrustStore(tmp_path, root=Publisher().roots[0])


def test_root_may_be_given_again_older_or_newer(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    publisher.rotate_root()
    TrustStore(tmp_path, root=publisher.roots[1])
    verify(store, publisher.metadata_set())
    for root in publisher.roots:
        assert TrustStore(tmp_path, root=root).root_version == 2


def test_damaged_trust_file_is_refused_and_not_begun_anew(
    publisher: Publisher, store: TrustStore, tmp_path: Path
) -> None:
    (tmp_path / "trusted.json").write_bytes(b"{")
    with pytest.raises(TrustError, match="new installs stop, what runs keeps running"):
        TrustStore(tmp_path, root=publisher.roots[0])


# --- directors -------------------------------------------------------------------------------


def test_directors_list_without_signature_is_refused(
    publisher: Publisher, store: TrustStore
) -> None:
    del publisher.targets.targets["directors.json"]
    with pytest.raises(TrustError, match=r"lists no directors\.json"):
        verify(store, publisher.metadata_set())


def test_director_key_of_wrong_size_is_refused(publisher: Publisher, store: TrustStore) -> None:
    listed = json.loads(publisher.directors)
    listed["keys"][0]["public"] = "not hex"
    publisher.directors = json.dumps(listed).encode()
    publisher.targets.targets["directors.json"] = TargetFile.from_data(
        "directors.json", publisher.directors
    )
    with pytest.raises(ContractError, match="expected a key of 32 bytes in hex"):
        verify(store, publisher.metadata_set())


# --- anything at all -------------------------------------------------------------------------

PARTS = ["timestamp", "snapshot", "targets", "line_role", "directors"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(part=st.sampled_from([*PARTS, "roots"]), at=st.integers(0, 10_000), byte=st.integers(0, 255))
def test_any_changed_byte_is_refused_or_changes_nothing(
    part: str, at: int, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    publisher = Publisher()
    publisher.approve("1.0.0")
    publisher.rotate_root()
    good = publisher.metadata_set()
    data = bytearray(good.roots[1] if part == "roots" else getattr(good, part))
    data[at % len(data)] = byte
    value = [good.roots[0], bytes(data)] if part == "roots" else bytes(data)
    directory = tmp_path_factory.mktemp("fuzz")
    approved = TrustStore(directory / "a", root=good.roots[0]).verify(good, reference_s=NOW_S)
    device = TrustStore(directory / "b", root=good.roots[0])
    try:
        changed = verify(device, msgspec.structs.replace(good, **{part: value}))
    except (TrustError, ContractError):
        return
    assert changed.targets == approved.targets
    assert changed.directors == approved.directors
