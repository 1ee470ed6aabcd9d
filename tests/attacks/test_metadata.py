"""Attacks on the metadata: TUF's list, by somebody on the wire and by holders of stolen keys."""

from __future__ import annotations

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tuf.api.metadata import MetaFile, TargetFile

from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.signing import ed25519_key, public_bytes
from tests.attacks.victim import Victim
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S, ROLE, Publisher, date

TUF = "edge_agent.trust.verifier (python-tuf)"


def test_rollback_of_the_timestamp(victim: Victim) -> None:
    old = victim.publisher.metadata_set()
    victim.publisher.approve("1.1.0")
    victim.metadata()
    victim.metadata(old)
    victim.refused(TUF, "timestamp metadata refused: rollback")


def test_rollback_of_the_snapshot_under_a_new_timestamp(victim: Victim) -> None:
    victim.publisher.timestamp.version += 1
    victim.publisher.snapshot.version -= 1
    victim.metadata()
    victim.refused(TUF, "rollback.*snapshot version must be")


def test_rollback_of_a_line_by_stolen_online_keys(victim: Victim) -> None:
    victim.publisher.approve("1.1.0")
    victim.metadata()
    del victim.publisher.line.targets[f"{LINE}/1.1.0"]
    victim.publisher.line.version -= 1
    victim.publisher.bump()
    victim.metadata()
    victim.refused(TUF, "snapshot metadata refused: rollback")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", "line", "root"])
def test_freeze_with_an_expired_role(role: str, victim: Victim) -> None:
    getattr(victim.publisher, role).expires = date(NOW_S - 60)
    if role == "root":
        victim.publisher.rotate_root()
    else:
        victim.publisher.bump()
    victim.metadata()
    victim.refused(TUF, "expired: the metadata is old, or is being held back")


def test_freeze_by_holding_new_metadata_back_from_an_order_that_needs_it(victim: Victim) -> None:
    victim.order(victim.envelope(timestamp_version_min=99))
    victim.refused("edge_agent.trust.order", "metadata is held back")


@pytest.mark.parametrize("part", ["snapshot", "targets", "line_role", "directors"])
def test_mix_and_match_of_two_editions(part: str, victim: Victim) -> None:
    old = victim.publisher.metadata_set()
    victim.publisher.name_director(expires=NOW_S + 9 * DAY_S)
    victim.publisher.approve("1.1.0")
    mixed = msgspec.structs.replace(victim.publisher.metadata_set(), **{part: getattr(old, part)})
    victim.metadata(mixed)
    victim.refused(TUF, "mix-and-match")


def test_endless_metadata(victim: Victim) -> None:
    victim.metadata(b"[" * (MESSAGE_LIMIT_BYTES + 1))
    victim.refused("edge_contract.codec (size before parsing)", "at most 131072 are accepted")


def test_deeply_nested_metadata(victim: Victim) -> None:
    victim.metadata(b"[" * 100_000)
    victim.refused("edge_contract.codec", "not a valid MetadataSet")


def test_metadata_of_another_line(victim: Victim) -> None:
    victim.metadata(victim.publisher.metadata_set(line="faces"))
    victim.refused("edge_agent.orders", "metadata of line 'faces', this device runs 'digits'")


@pytest.mark.parametrize("role", ["timestamp", "snapshot", "targets", ROLE])
def test_metadata_signed_by_a_stranger(role: str, victim: Victim) -> None:
    victim.publisher.keys[role] = [Ed25519PrivateKey.generate()]
    victim.publisher.name_director()
    victim.publisher.approve("6.6.6")
    victim.metadata()
    victim.refused(TUF, "not signed by a threshold")


def test_wrong_threshold_one_of_two_root_keys(victim: Victim) -> None:
    victim.publisher.keys["root"] = victim.publisher.keys["root"][:1]
    victim.publisher.rotate_root()
    victim.metadata()
    victim.refused(TUF, "root metadata refused: not signed by a threshold")


def test_wrong_threshold_one_key_signing_twice(victim: Victim) -> None:
    first = victim.publisher.keys["root"][0]
    victim.publisher.keys["root"] = [first, first]
    victim.publisher.rotate_root()
    victim.metadata()
    victim.refused(TUF, "root metadata refused: not signed by a threshold")


def test_arbitrary_root_of_an_attacker(victim: Victim) -> None:
    usurper = Publisher()
    usurper.root.version = 2
    usurper.approve("1.0.0")
    forged = [victim.publisher.roots[0], usurper.sign("root", usurper.root)]
    victim.metadata(msgspec.structs.replace(usurper.metadata_set(), roots=forged))
    victim.refused(TUF, "root metadata refused: not signed")


def test_root_that_leaves_a_version_out(victim: Victim) -> None:
    victim.publisher.root.version = 2
    victim.publisher.rotate_root()
    victim.metadata()
    victim.refused(TUF, "root metadata refused: rollback, or a version out of sequence")


def test_revoked_timestamp_key(victim: Victim) -> None:
    stolen = victim.publisher.keys["timestamp"]
    replace_timestamp_key(victim.publisher)
    victim.publisher.timestamp.version += 1
    victim.metadata()
    victim.publisher.keys["timestamp"] = stolen
    victim.publisher.timestamp.version += 1
    victim.note()
    victim.metadata()
    victim.refused(TUF, "timestamp metadata refused: not signed")


def test_revoked_line_key(victim: Victim) -> None:
    stolen = victim.publisher.keys[ROLE]
    victim.publisher.targets.revoke_key(ed25519_key(public_bytes(stolen[0])).keyid, ROLE)
    fresh = Ed25519PrivateKey.generate()
    victim.publisher.targets.add_key(ed25519_key(public_bytes(fresh)), ROLE)
    victim.publisher.targets.version += 1
    victim.publisher.approve("6.6.6")
    victim.metadata()
    victim.refused(TUF, "'line-digits' metadata refused: not signed")


def test_fast_forward_with_a_stolen_timestamp_key_is_recovered_from(victim: Victim) -> None:
    victim.publisher.timestamp.version = 1_000_000
    victim.metadata()
    victim.publisher.timestamp.version = 5
    victim.metadata()  # held back behind the burnt number
    victim.refused(TUF, "timestamp metadata refused: rollback")
    replace_timestamp_key(victim.publisher)
    victim.metadata()
    victim.order(victim.envelope(seq=2, timestamp_version_min=5))
    assert victim.agent.desk.desired_seq == 2


def test_line_key_that_approves_for_another_line(victim: Victim) -> None:
    victim.publisher.approve("9.9.9", line="faces")
    victim.metadata()
    victim.order(victim.envelope(version="9.9.9"))
    victim.refused("edge_agent.trust.approved", r"digits 9\.9\.9 is not approved")


def test_second_delegation_that_takes_a_line_over(victim: Victim) -> None:
    victim.publisher.keys["intruder"] = [Ed25519PrivateKey.generate()]
    victim.publisher.delegate(LINE, "intruder")
    victim.publisher.targets.version += 1
    victim.publisher.bump()
    good = victim.publisher.metadata_set()
    victim.publisher.line.targets[f"{LINE}/6.6.6"] = TargetFile.from_data("x", b"{}", ["sha256"])
    forged = victim.publisher.sign("intruder", victim.publisher.line)
    victim.metadata(msgspec.structs.replace(good, line_role=forged))
    victim.refused(TUF, "'line-digits' metadata refused")


def test_line_taken_out_of_the_snapshot(victim: Victim) -> None:
    publisher = victim.publisher
    publisher.bump()
    good = publisher.metadata_set()
    del publisher.snapshot.meta[f"{ROLE}.json"]
    snapshot = publisher.sign("snapshot", publisher.snapshot)
    publisher.timestamp.snapshot_meta = MetaFile.from_data(
        publisher.snapshot.version, snapshot, ["sha256"]
    )
    timestamp = publisher.sign("timestamp", publisher.timestamp)
    victim.metadata(msgspec.structs.replace(good, snapshot=snapshot, timestamp=timestamp))
    victim.refused(TUF, "missing info")


def test_malformed_floor_of_a_line(victim: Victim) -> None:
    victim.publisher.line.unrecognized_fields["x-wherry-min-release"] = ["off"]
    victim.publisher.approve("1.1.0")
    victim.metadata()
    victim.refused("edge_agent.trust.verifier", "is not a version")


def test_director_key_of_the_wrong_size(victim: Victim) -> None:
    short = victim.publisher.directors.replace(b'"public":"', b'"public":"00')
    victim.publisher.directors = short
    target = TargetFile.from_data("directors.json", short)
    victim.publisher.targets.targets["directors.json"] = target
    victim.publisher.targets.version += 1
    victim.publisher.bump()
    victim.metadata()
    victim.refused("edge_contract.desired", "expected a key of 32 bytes in hex")


def replace_timestamp_key(publisher: Publisher) -> None:
    """The next root names a new timestamp key instead of the one in use."""
    before = publisher.keys["timestamp"][0]
    publisher.root.revoke_key(ed25519_key(public_bytes(before)).keyid, "timestamp")
    publisher.keys["timestamp"] = [Ed25519PrivateKey.generate()]
    publisher.root.add_key(ed25519_key(public_bytes(publisher.keys["timestamp"][0])), "timestamp")
    publisher.rotate_root()
