"""Cases of the public TUF conformance suite, written anew: first contact, and following the root.

Against the device's trust store. Section numbers are those of the specification's client workflow
(1.0.33). Every refresh is a new process over the kept state.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import TrustError
from tests.trust.conformance.client import Client, edited, publish_root, rotate, swap
from tests.trust.tuf_simulator import DAY_S, NOW_S, Publisher, date

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
