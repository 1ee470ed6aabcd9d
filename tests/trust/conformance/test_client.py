"""The public TUF conformance suite's cases, written anew, against the device's trust store.

Grouped as the specification's client workflow is (1.0.33, section 5): root, timestamp, snapshot,
targets, delegations, targets' files. Every refresh is a new process over the kept state.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner, SSlibKey
from tuf.api.metadata import Metadata, MetaFile, TargetFile

from edge_agent.trust.verifier import TrustStore
from edge_contract.digest import digest_of
from edge_contract.errors import TrustError
from edge_contract.metadata import MetadataSet
from edge_contract.signing import ed25519_key, public_bytes
from tests.trust.conformance.client import Client, publish_root, rotate
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S, ROLE, Publisher, date


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return publisher


@pytest.fixture
def client(publisher: Publisher, tmp_path: Path) -> Client:
    return Client(tmp_path / "client", publisher)


def edited(data: bytes, **changes: Any) -> bytes:
    """A file with fields of its signed part replaced; the signatures are the old ones."""
    document = json.loads(data)
    document["signed"].update(changes)
    return json.dumps(document).encode()


def swap(metadata: MetadataSet, **parts: Any) -> MetadataSet:
    return msgspec.structs.replace(metadata, **parts)


# --- beginning -------------------------------------------------------------------------------


def test_init_trusts_the_root_and_nothing_else(client: Client) -> None:
    assert client.versions() == {"root": 1, "timestamp": 0, "snapshot": 0, "targets": 0, "line": 0}


def test_first_refresh_gets_everything(client: Client) -> None:
    assert client.refresh()
    assert client.versions()["root"] == 1
    assert min(client.versions().values()) >= 1


def test_refresh_without_changes_keeps_every_byte(client: Client) -> None:
    metadata = client.publisher.metadata_set()
    client.refresh(metadata)
    before = (client.home / "trusted.json").read_bytes()
    assert client.refresh(metadata)
    assert (client.home / "trusted.json").read_bytes() == before


def test_refresh_takes_up_each_new_version(client: Client) -> None:
    for version in ("1.1.0", "1.2.0", "1.3.0"):
        client.publisher.approve(version)
        approved = client.refresh()
        assert approved is not None
        assert version in approved.targets


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"signed":{}}', b"\x00" * 50])
def test_init_with_something_that_is_no_root(data: bytes, tmp_path: Path) -> None:
    with pytest.raises(TrustError):
        TrustStore(tmp_path, root=data)


@pytest.mark.parametrize("part", ["timestamp", "snapshot", "targets", "line_role"])
@pytest.mark.parametrize("data", [b"", b"{", b'{"signed":{}}'])
def test_malformed_role_is_refused_and_what_came_before_is_kept(
    part: str, data: bytes, client: Client
) -> None:
    assert client.refresh()
    before = client.versions()
    client.publisher.approve("1.1.0")
    assert client.refresh(swap(client.publisher.metadata_set(), **{part: data})) is None
    assert client.versions()["line"] == before["line"]


@pytest.mark.parametrize(
    ("part", "other"),
    [("timestamp", "snapshot"), ("targets", "timestamp"), ("snapshot", "targets")],
)
def test_role_of_another_type_is_refused(part: str, other: str, client: Client) -> None:
    metadata = client.publisher.metadata_set()
    assert client.refresh(swap(metadata, **{part: getattr(metadata, other)})) is None


def test_unsupported_specification_version_is_refused(
    client: Client, publisher: Publisher, tmp_path: Path
) -> None:
    timestamp = edited(publisher.metadata_set().timestamp, spec_version="2.0.0")
    assert client.refresh(swap(publisher.metadata_set(), timestamp=timestamp)) is None


def test_unknown_fields_are_kept_and_their_signature_counts(client: Client) -> None:
    client.publisher.line.unrecognized_fields["x-new"] = {"a": [1]}
    client.publisher.approve("1.1.0")
    assert client.refresh()
    good = client.publisher.metadata_set()
    tampered = edited(good.timestamp, **{"x-other": 1})
    client.publisher.timestamp.version += 1
    assert client.refresh(swap(client.publisher.metadata_set(), timestamp=tampered)) is None


# --- 5.3 root --------------------------------------------------------------------------------


def test_every_root_in_between_is_followed(client: Client, publisher: Publisher) -> None:
    for _ in range(5):
        old = publisher.keys["root"]
        rotate(publisher, "root")
        publish_root(publisher, *old)
    assert client.refresh()
    assert client.versions()["root"] == 6


def test_root_without_the_old_threshold_is_refused(client: Client, publisher: Publisher) -> None:
    rotate(publisher, "root")
    publisher.rotate_root()
    assert client.refresh() is None
    assert client.versions()["root"] == 1


def test_root_without_the_new_threshold_is_refused(client: Client, publisher: Publisher) -> None:
    old = publisher.keys["root"]
    rotate(publisher, "root")
    publisher.keys["root"] = old
    publisher.rotate_root()
    assert client.refresh() is None
    assert client.versions()["root"] == 1


def test_root_with_the_same_version_again_is_passed_over(
    client: Client, publisher: Publisher
) -> None:
    assert client.refresh(swap(publisher.metadata_set(), roots=publisher.roots * 3))


def test_root_rollback_is_passed_over(client: Client, publisher: Publisher) -> None:
    publisher.rotate_root()
    assert client.refresh()
    assert client.refresh(swap(publisher.metadata_set(), roots=publisher.roots[:1]))
    assert client.versions()["root"] == 2


def test_root_that_leaves_a_version_out_is_refused(client: Client, publisher: Publisher) -> None:
    publisher.root.version += 1
    publisher.rotate_root()
    assert client.refresh() is None


def test_expired_root_in_between_is_passed_through(client: Client, publisher: Publisher) -> None:
    good = publisher.root.expires
    publisher.root.expires = date(NOW_S - DAY_S)
    publisher.rotate_root()
    publisher.root.expires = good
    publisher.rotate_root()
    assert client.refresh()
    assert client.versions()["root"] == 3


def test_expired_last_root_is_refused_and_kept(client: Client, publisher: Publisher) -> None:
    publisher.root.expires = date(NOW_S - DAY_S)
    publisher.rotate_root()
    assert client.refresh() is None
    assert client.versions() == {"root": 2, "timestamp": 0, "snapshot": 0, "targets": 0, "line": 0}


def test_expired_trusted_root_gives_way_to_a_fresh_one(
    publisher: Publisher, tmp_path: Path
) -> None:
    good = publisher.root.expires
    publisher.root.expires = date(NOW_S - DAY_S)
    first = publisher.sign("root", publisher.root)
    client = Client(tmp_path / "c", publisher, root=first)
    publisher.roots = [first]
    publisher.root.expires = good
    publisher.rotate_root()
    assert client.refresh()


# --- keys and thresholds ---------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_role_signed_by_another_key_is_refused(role: str, client: Client) -> None:
    client.publisher.keys[role] = [Ed25519PrivateKey.generate()]
    assert client.refresh() is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_role_without_a_signature_is_refused(role: str, client: Client) -> None:
    client.publisher.keys[role] = []
    assert client.refresh() is None


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
@pytest.mark.parametrize(("signing", "good"), [(2, True), (1, False)])
def test_threshold_of_two(role: str, signing: int, good: bool, client: Client) -> None:
    publisher = client.publisher
    rotate(publisher, role, keep=1, new=1)
    delegator = publisher.targets if role == ROLE else publisher.root
    delegator.get_delegated_role(role).threshold = 2
    if role != ROLE:
        publisher.rotate_root()
    publisher.keys[role] = publisher.keys[role][:signing]
    publisher.bump()
    assert bool(client.refresh()) is good


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_signature_twice_does_not_count_twice(role: str, client: Client) -> None:
    publisher = client.publisher
    delegator = publisher.targets if role == ROLE else publisher.root
    publisher.root.add_key(ed25519_key(public_bytes(Ed25519PrivateKey.generate())), "targets")
    delegator.add_key(ed25519_key(public_bytes(Ed25519PrivateKey.generate())), role)
    delegator.get_delegated_role(role).threshold = 2
    publisher.rotate_root()
    publisher.keys[role] *= 2
    publisher.targets.version += 1
    publisher.bump()
    assert client.refresh() is None


def test_one_key_under_two_ids_is_one_vote_only_if_the_root_says_so(
    publisher: Publisher, tmp_path: Path
) -> None:
    """A root that lists a key twice under two ids is malformed for us: ids are fingerprints."""
    document = json.loads(publisher.roots[0])
    ids = document["signed"]["roles"]["timestamp"]["keyids"]
    document["signed"]["roles"]["timestamp"]["keyids"] = ids * 2
    with pytest.raises(TrustError):
        TrustStore(tmp_path, root=json.dumps(document).encode())


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_key_rotation(role: str, client: Client) -> None:
    assert client.refresh()
    rotate(client.publisher, role)
    if role != ROLE:
        client.publisher.rotate_root()
    client.publisher.targets.version += 1
    client.publisher.line.version += 1
    client.publisher.bump()
    assert client.refresh()


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_revoked_key_counts_no_more(role: str, client: Client) -> None:
    assert client.refresh()
    stolen = client.publisher.keys[role]
    rotate(client.publisher, role)
    if role != ROLE:
        client.publisher.rotate_root()
    client.publisher.keys[role] = stolen
    client.publisher.targets.version += 1
    client.publisher.bump()
    assert client.refresh() is None


@pytest.mark.parametrize("kind", ["ecdsa-p256", "ecdsa-p384", "rsa", "ed25519"])
def test_keys_of_other_kinds_verify(kind: str, client: Client) -> None:
    private: Any = {
        "ecdsa-p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "ecdsa-p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "rsa": lambda: rsa.generate_private_key(65537, 2048),
        "ed25519": Ed25519PrivateKey.generate,
    }[kind]()
    key = SSlibKey.from_crypto(private.public_key())
    publisher = client.publisher
    role = publisher.root.get_delegated_role("timestamp")
    publisher.root.revoke_key(role.keyids[0], "timestamp")
    publisher.root.add_key(key, "timestamp")
    publisher.rotate_root()
    good = publisher.metadata_set()
    metadata: Metadata[Any] = Metadata.from_bytes(good.timestamp)
    metadata.sign(CryptoSigner(private, key))
    assert client.refresh(swap(good, timestamp=metadata.to_bytes()))


# --- 5.4 timestamp ---------------------------------------------------------------------------


def test_timestamp_rollback_is_refused(client: Client) -> None:
    old = client.publisher.metadata_set()
    client.publisher.bump()
    assert client.refresh()
    before = client.versions()
    assert client.refresh(old) is None
    assert client.versions() == before


def test_timestamp_of_the_same_version_keeps_the_known_one(client: Client) -> None:
    assert client.refresh()
    client.publisher.timestamp.expires = date(NOW_S + 99 * DAY_S)
    assert client.refresh(
        swap(client.publisher.metadata_set(), snapshot=client.publisher.metadata_set().snapshot)
    )
    kept = client.store.approved(reference_s=NOW_S)
    assert kept is not None
    assert kept.expires_s == NOW_S + 7 * DAY_S


def test_snapshot_version_in_the_timestamp_may_not_go_back(client: Client) -> None:
    client.publisher.bump()
    assert client.refresh()
    client.publisher.snapshot.version -= 1
    client.publisher.timestamp.version += 1
    assert client.refresh() is None


def test_expired_timestamp_is_refused_but_a_newer_one_is_taken(client: Client) -> None:
    assert client.refresh()
    client.now_s = NOW_S + 8 * DAY_S
    assert client.refresh() is None
    client.publisher.timestamp.expires = date(NOW_S + 9 * DAY_S)
    client.publisher.timestamp.version += 1
    assert client.refresh()


# --- 5.5 snapshot ----------------------------------------------------------------------------


def test_snapshot_that_differs_from_its_hash_is_refused(client: Client) -> None:
    good = client.publisher.metadata_set()
    assert client.refresh(swap(good, snapshot=good.snapshot + b" ")) is None


def test_snapshot_of_another_version_than_the_timestamp_says_is_refused(client: Client) -> None:
    publisher = client.publisher
    good = publisher.metadata_set()
    publisher.timestamp.snapshot_meta = MetaFile(publisher.snapshot.version + 1)
    publisher.timestamp.version += 1
    assert (
        client.refresh(swap(good, timestamp=publisher.sign("timestamp", publisher.timestamp)))
        is None
    )


def test_targets_may_not_go_back_in_the_snapshot(client: Client) -> None:
    client.publisher.targets.version += 5
    client.publisher.bump()
    assert client.refresh()
    client.publisher.targets.version -= 1
    client.publisher.bump()
    assert client.refresh() is None


def test_role_may_not_vanish_from_the_snapshot(client: Client) -> None:
    assert client.refresh()
    publisher = client.publisher
    publisher.bump()
    good = publisher.metadata_set()
    del publisher.snapshot.meta["targets.json"]
    snapshot = publisher.sign("snapshot", publisher.snapshot)
    publisher.timestamp.snapshot_meta = MetaFile.from_data(
        publisher.snapshot.version, snapshot, ["sha256"]
    )
    timestamp = publisher.sign("timestamp", publisher.timestamp)
    assert client.refresh(swap(good, snapshot=snapshot, timestamp=timestamp)) is None


def test_expired_snapshot_is_refused(client: Client) -> None:
    client.publisher.snapshot.expires = date(NOW_S - 1)
    client.publisher.bump()
    assert client.refresh() is None
    assert client.versions()["targets"] == 0


def test_expired_known_snapshot_still_guards_against_rollback(client: Client) -> None:
    client.publisher.approve("1.1.0")
    assert client.refresh()
    client.now_s = NOW_S + 31 * DAY_S
    life = date(NOW_S + 90 * DAY_S)
    for part in ("root", "timestamp", "snapshot", "targets", "line"):
        getattr(client.publisher, part).expires = life
    client.publisher.rotate_root()
    client.publisher.line.version -= 1
    client.publisher.bump()
    assert client.refresh() is None


# --- 5.6 targets and delegations -------------------------------------------------------------


@pytest.mark.parametrize("part", ["targets", "line_role"])
def test_targets_that_differ_from_their_hash_are_refused(part: str, client: Client) -> None:
    good = client.publisher.metadata_set()
    assert client.refresh(swap(good, **{part: getattr(good, part) + b" "})) is None


@pytest.mark.parametrize("part", ["targets", "line"])
def test_expired_targets_are_refused(part: str, client: Client) -> None:
    getattr(client.publisher, part).expires = date(NOW_S - 1)
    client.publisher.bump()
    assert client.refresh() is None


def test_targets_of_another_version_than_the_snapshot_says_are_refused(client: Client) -> None:
    publisher = client.publisher
    publisher.bump()
    good = publisher.metadata_set()
    publisher.snapshot.meta["targets.json"] = MetaFile(publisher.targets.version + 1)
    snapshot = publisher.sign("snapshot", publisher.snapshot)
    publisher.timestamp.snapshot_meta = MetaFile.from_data(
        publisher.snapshot.version, snapshot, ["sha256"]
    )
    timestamp = publisher.sign("timestamp", publisher.timestamp)
    assert client.refresh(swap(good, snapshot=snapshot, timestamp=timestamp)) is None


def test_line_without_a_delegation_is_refused(client: Client) -> None:
    assert client.refresh(client.publisher.metadata_set(line="faces")) is None


def test_delegation_that_does_not_terminate_is_refused(client: Client) -> None:
    delegated = client.publisher.targets.delegations
    assert delegated is not None
    assert delegated.roles is not None
    delegated.roles[ROLE].terminating = False
    client.publisher.targets.version += 1
    client.publisher.bump()
    assert client.refresh() is None


def test_first_terminating_delegation_wins(client: Client) -> None:
    client.publisher.keys["second"] = [Ed25519PrivateKey.generate()]
    client.publisher.delegate(LINE, "second")
    client.publisher.targets.version += 1
    client.publisher.bump()
    assert client.refresh()


def test_target_outside_the_delegated_paths_does_not_count(client: Client) -> None:
    for path in ("faces/9.0.0", "9.0.0", f"{LINE}/sub/9.0.0"):
        client.publisher.line.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
    client.publisher.approve("1.1.0")
    approved = client.refresh()
    assert approved is not None
    assert set(approved.targets) == {"1.0.0", "1.1.0"}


def test_odd_names_of_targets_are_plain_data(client: Client) -> None:
    for name in ("a b", "ä", "%2e%2e", "..", "x\\y"):
        path = f"{LINE}/{name}"
        client.publisher.line.targets[path] = TargetFile.from_data(path, b"{}", ["sha256"])
    client.publisher.approve("1.1.0")
    assert client.refresh()
    assert not list(client.home.parent.glob("*..*"))


# --- 5.7 target files ------------------------------------------------------------------------


def test_target_with_the_right_digest_is_good_and_any_other_is_not(client: Client) -> None:
    assert client.refresh()
    assert client.download("1.0.0", digest_of(b"{}"))
    assert not client.download("1.0.0", digest_of(b"{} "))
    assert not client.download("2.0.0", digest_of(b"{}"))


def test_target_that_was_removed_is_no_longer_good(client: Client) -> None:
    assert client.refresh()
    client.publisher.approve("1.1.0")
    del client.publisher.line.targets[f"{LINE}/1.0.0"]
    assert client.refresh()
    assert not client.download("1.0.0", digest_of(b"{}"))


def test_target_hashed_by_an_unknown_algorithm_alone_does_not_count(client: Client) -> None:
    path = f"{LINE}/7.0.0"
    client.publisher.line.targets[path] = TargetFile(2, {"md5": "0" * 32}, path)
    client.publisher.approve("1.1.0")
    approved = client.refresh()
    assert approved is not None
    assert "7.0.0" not in approved.targets


# --- recovery --------------------------------------------------------------------------------


@pytest.mark.parametrize("role", ["timestamp", "snapshot"])
def test_fast_forward_is_recovered_from_by_rotating_the_key(role: str, client: Client) -> None:
    publisher = client.publisher
    before = getattr(publisher, role).version
    getattr(publisher, role).version = 10**6
    publisher.timestamp.version += 1
    assert client.refresh()
    getattr(publisher, role).version = before + 1
    for name in ("timestamp", "snapshot"):  # as the specification says, both
        rotate(publisher, name)
    publisher.rotate_root()
    publisher.timestamp.version = before + 2
    assert client.refresh()
    assert client.versions()[role] < 10**6
