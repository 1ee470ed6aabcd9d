"""Cases of the public TUF conformance suite, written anew: timestamp, snapshot, targets, files.

Against the device's trust store. Section numbers are those of the specification's client workflow
(1.0.33). Every refresh is a new process over the kept state.
"""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import MetaFile, TargetFile

from edge_contract.digest import digest_of
from tests.trust.conformance.client import Client, swap
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S, ROLE, date

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
