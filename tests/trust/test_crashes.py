"""What a publisher that is killed leaves, and what two of them leave: old or new, and whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from edge_agent.trust.verifier import TrustStore
from fleet.repository.ceremony import Ceremony
from fleet.repository.tuf_repository import Repository
from tests.trust.bundle_maker import make_bundle
from tests.trust.child import REFUSED, ended, killed_at_fsync, start_child
from tests.trust.office import Office, moved
from tests.trust.small_repository import approved_by_device, repository
from tests.trust.tuf_simulator import NOW_S


@pytest.mark.parametrize("first", [True, False], ids=["first publish", "second publish"])
def test_crash_at_any_write_of_a_publish_leaves_a_valid_repository(
    first: bool, tmp_path: Path
) -> None:
    old = make_bundle(tmp_path / "old")
    new = make_bundle(tmp_path / "new", version="1.1.0", weights=b"new")
    start = {} if first else {"1.0.0": old.digest}
    whole = {**start, "1.1.0": new.digest}
    outcomes = []
    for number in range(200):
        here = tmp_path / str(number)
        repo = repository(here)
        if not first:
            repo.publish(old.path)
        if not killed_at_fsync(number, partial(repo.publish, new.path)):
            break
        found = {item.version: item.digest for item in repository(here).published()}
        assert found in (start, whole)
        outcomes.append(found == whole)
        if found:
            assert approved_by_device(repository(here), here) == found
        repository(here).publish(new.path)
        assert approved_by_device(repository(here), here) == whole
        for digest in repository(here).blobs_of(new.digest):
            assert repository(here).blob_path(digest).is_file()
        leftovers = [path for path in here.rglob(".*.part") if path.parent.name == "sha256"]
        assert leftovers == []
    else:
        pytest.fail("the publish never came to its end")
    assert len(outcomes) >= (30 if first else 15)
    assert outcomes.count(True) <= 2
    assert outcomes == sorted(outcomes)


def test_two_publishers_at_once_lose_nothing(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / f"b{number}", version=f"1.{number}.0") for number in range(8)]

    def publish(part: int) -> None:
        for bundle in bundles[part::2]:
            repository(tmp_path).publish(bundle.path)

    pids = [start_child(partial(publish, part)) for part in (0, 1)]
    assert [ended(pid) for pid in pids] == [0, 0]
    assert approved_by_device(repository(tmp_path), tmp_path) == {
        f"1.{number}.0": bundle.digest for number, bundle in enumerate(bundles)
    }


def test_two_publishers_of_one_version_cannot_both_win(tmp_path: Path) -> None:
    bundles = [make_bundle(tmp_path / str(n), weights=bytes([n])) for n in range(2)]
    pids = [start_child(partial(repository(tmp_path).publish, bundle.path)) for bundle in bundles]
    assert sorted(ended(pid) for pid in pids) == [0, REFUSED]
    assert len(repository(tmp_path).published()) == 1


def test_crash_in_a_root_rotation_with_a_new_timestamp_key_leaves_old_or_new(
    tmp_path: Path,
) -> None:
    """The root and the timestamp that it needs are two files; devices never see one alone."""
    outcomes = []
    for number in range(100):
        home = tmp_path / str(number)
        repo = Repository(home / "state", "shop", lambda: NOW_S)
        repo.publish(make_bundle(home / "b").path)
        first = repo.root_bytes()
        ceremony = Ceremony(repo, "olga")
        killed = killed_at_fsync(number, partial(ceremony.rotate, "timestamp", [], None))
        again = Repository(home / "state", "shop", lambda: NOW_S)
        store = TrustStore(home / "device", root=first)
        assert store.verify(again.metadata_set("digits"), reference_s=NOW_S).targets
        outcomes.append(store.root_version)
        if not killed:
            break
        assert Ceremony(again, "olga").rotate("timestamp", [], None).committed
        assert store.verify(again.metadata_set("digits"), reference_s=NOW_S).targets
    else:
        pytest.fail("the rotation never came to its end")
    assert set(outcomes) == {1, 2}
    assert outcomes == sorted(outcomes)


def test_crash_while_an_event_is_published_leaves_old_or_new(
    first_office: Office, tmp_path: Path
) -> None:
    outcomes = []
    for number in range(100):
        office = moved(first_office, tmp_path / str(number))
        office.publish("1.1.0")
        event = office.signed_by("bob", office.signed_by("ada", office.event()))
        killed = killed_at_fsync(number, partial(office.ceremony.submit, event))
        outcomes.append(office.device() == {"1.0.0", "1.1.0"})
        if not killed:
            break
        if not outcomes[-1]:
            assert office.ceremony.submit(event).committed
        assert office.publish("1.1.0").already
    else:
        pytest.fail("it never came to its end")
    assert outcomes == sorted(outcomes)
