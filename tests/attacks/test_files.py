"""Attacks with files: bundles that are not what they say, and offline media."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from edge_agent.local_install import local_order, read_local_bundle
from edge_agent.transfer.fetch import import_bundle
from edge_agent.trust.bundle_check import check_manifest, check_model
from edge_contract.codec import encode_json
from edge_contract.digest import digest_of, hex_of
from edge_contract.layout import BundleDir, pack_tar, unpack_tar
from edge_contract.media import MediaDevice, MediaSet, decode_media_set
from edge_contract.metadata import encode_metadata_set
from edge_contract.signing import ed25519_key, public_bytes
from tests.agent.bundles import HARDWARE
from tests.attacks.victim import Victim
from tests.trust.bundle_maker import bundle_files, make_bundle, write_files
from tests.trust.tuf_simulator import DAY_S, LINE, NOW_S, ROLE

LAYOUT = "edge_contract.layout"
MANIFEST = "edge_contract.manifest"


@pytest.fixture
def bundle(victim: Victim) -> BundleDir:
    """A good bundle of 2.0.0 that is approved, with its approval beside it."""
    made = make_bundle(victim.home / "stick" / "bundle", version="2.0.0")
    victim.publisher.approve("2.0.0", made.manifest_bytes)
    approval = encode_metadata_set(victim.publisher.metadata_set())
    (victim.home / "stick" / "approval.json").write_bytes(approval)
    return made


def install(victim: Victim, path: Path) -> None:
    """What `edge-agent install PATH` does up to the update machine's order."""
    agent = victim.agent
    local = read_local_bundle(path, None)
    local_order(local, agent.desk, agent.update.state, agent.config.health)
    import_bundle(local.bundle, agent.fetcher.blob)


def add_layer(bundle: BundleDir, name: str) -> None:
    """Give one layer another name, in a manifest that is consistent with its index."""
    manifest = json.loads(bundle.manifest_bytes)
    manifest["layers"][0]["annotations"]["org.cncf.model.filepath"] = name
    put_manifest(bundle, json.dumps(manifest).encode())


def put_manifest(bundle: BundleDir, data: bytes) -> None:
    digest = digest_of(data)
    (bundle.path / "blobs" / "sha256" / hex_of(digest)).write_bytes(data)
    index = json.loads((bundle.path / "index.json").read_text())
    index["manifests"][0] |= {"digest": digest, "size": len(data)}
    (bundle.path / "index.json").write_text(json.dumps(index))


def test_good_bundle_is_taken_so_the_refusals_mean_something(
    victim: Victim, bundle: BundleDir
) -> None:
    install(victim, bundle.path)
    victim.infers()


def test_bundle_without_approval(victim: Victim, bundle: BundleDir) -> None:
    other = make_bundle(victim.home / "stick" / "other", version="2.1.0")
    victim.tries(lambda: install(victim, other.path))
    victim.refused("edge_agent.trust.approved", r"digits 2\.1\.0 is not approved")


def test_bundle_with_other_weights_under_an_approved_version(
    victim: Victim, bundle: BundleDir
) -> None:
    evil = make_bundle(victim.home / "stick" / "evil", version="2.0.0", weights=b"evil")
    victim.tries(lambda: install(victim, evil.path))
    victim.refused("edge_agent.trust.approved", r"digits 2\.0\.0 is approved as")


def test_partial_bundle(victim: Victim, bundle: BundleDir) -> None:
    bundle.blob_path(bundle.manifest.layer("variants/x86-64.onnx").digest).unlink()
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(LAYOUT, "missing blob of variants/x86-64.onnx")


def test_tampered_blob(victim: Victim, bundle: BundleDir) -> None:
    path = bundle.blob_path(bundle.manifest.layer("variants/x86-64.onnx").digest)
    path.write_bytes(b"X" + path.read_bytes()[1:])
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(LAYOUT, "digest differs")


def test_endless_blob(victim: Victim, bundle: BundleDir) -> None:
    path = bundle.blob_path(bundle.manifest.layer("variants/x86-64.onnx").digest)
    with path.open("r+b") as file:
        file.truncate(40 << 30)  # sparse: it takes no room here
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(LAYOUT, "expected .* bytes for variants/x86-64.onnx, got 42949672960")


def test_manifest_longer_than_was_approved(victim: Victim, bundle: BundleDir) -> None:
    victim.metadata()
    target = victim.agent.desk.target("2.0.0", bundle.digest)
    victim.tries(lambda: check_manifest(bundle.manifest_bytes + b" " * 9, target))
    victim.refused("edge_agent.trust.bundle_check", "approved with .* bytes, got")


def test_bundle_approved_under_a_name_that_is_not_its_own(victim: Victim) -> None:
    files = bundle_files("faces", "2.0.0", b"w")
    path = victim.home / "stick" / "bundle"
    made = write_files(path, name="faces", version="2.0.0", files=files)
    data = made.read_file("model.json")
    victim.tries(lambda: check_model(data, made.manifest, line=LINE, version="2.0.0"))
    victim.refused("edge_agent.trust.bundle_check", r"approved as digits 2\.0\.0 holds faces")


@pytest.mark.parametrize(
    "name",
    ["../../etc/cron.d/evil", "/etc/passwd", "a/../../b", "..", "a//b", ".ssh/keys", "a\\..\\b"],
)
def test_path_traversal_in_a_layer_s_name(name: str, victim: Victim, bundle: BundleDir) -> None:
    add_layer(bundle, name)
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(MANIFEST, "refused: ")
    assert not (victim.home / "state" / "etc").exists()


def test_two_layers_of_one_name(victim: Victim, bundle: BundleDir) -> None:
    add_layer(bundle, bundle.manifest.layers[1].path)
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(MANIFEST, "stands twice in the bundle")


def test_layer_that_says_it_is_larger_than_any_may_be(victim: Victim, bundle: BundleDir) -> None:
    manifest = json.loads(bundle.manifest_bytes)
    manifest["layers"][0]["size"] = 1 << 60
    put_manifest(bundle, json.dumps(manifest).encode())
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(MANIFEST, "at most .* are accepted")


def test_digest_that_is_a_path(victim: Victim, bundle: BundleDir) -> None:
    manifest = json.loads(bundle.manifest_bytes)
    manifest["layers"][0]["digest"] = "sha256:../../../../etc/shadow"
    put_manifest(bundle, json.dumps(manifest).encode())
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused("edge_contract.digest", "refused: ")


def test_index_with_two_manifests(victim: Victim, bundle: BundleDir) -> None:
    index = json.loads((bundle.path / "index.json").read_text())
    index["manifests"] *= 2
    (bundle.path / "index.json").write_text(json.dumps(index))
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(LAYOUT, "exactly one manifest")


@pytest.mark.parametrize("what", ["blob", "folder"])
def test_symbolic_link_in_a_bundle(what: str, victim: Victim, bundle: BundleDir) -> None:
    path = bundle.blob_path(bundle.manifest.layer("variants/x86-64.onnx").digest)
    if what == "blob":
        secret = victim.home / "secret"
        path.rename(secret)
        path.symlink_to(secret)
    else:
        (bundle.path / "blobs").rename(victim.home / "blobs")
        (bundle.path / "blobs").symlink_to(victim.home / "blobs")
    victim.tries(lambda: install(victim, bundle.path))
    victim.refused(LAYOUT, "is a symbolic link")


@pytest.mark.parametrize("kind", ["symbolic link", "hard link", "device", "outside", "absolute"])
def test_tar_with_a_member_that_is(kind: str, victim: Victim, bundle: BundleDir) -> None:
    path = victim.home / "evil.tar"
    member = tarfile.TarInfo("blobs/sha256/" + "a" * 64)
    if kind == "outside":
        member.name = "../../outside"
    elif kind == "absolute":
        member.name = str(victim.home / "outside")
    else:
        types = {"symbolic link": tarfile.SYMTYPE, "hard link": tarfile.LNKTYPE}
        member.type, member.linkname = types.get(kind, tarfile.CHRTYPE), "/etc/passwd"
    with tarfile.open(path, "w") as tar:
        tar.addfile(member, io.BytesIO())
    victim.tries(lambda: unpack_tar(path, victim.home / "unpacked"))
    victim.refused(LAYOUT, "member .* is refused")
    assert not (victim.home / "unpacked").exists()
    assert not (victim.home / "outside").exists()


def test_zip_bomb_in_a_tar(victim: Victim, bundle: BundleDir) -> None:
    path = victim.home / "bomb.tar"
    member = tarfile.TarInfo("blobs/sha256/" + "b" * 64)
    member.size = 5 << 30
    path.write_bytes(member.tobuf())
    with path.open("r+b") as file:
        file.truncate((5 << 30) + 2048)
    victim.tries(lambda: unpack_tar(path, victim.home / "unpacked"))
    victim.refused(LAYOUT, "more than 4294967296 bytes unpacked")
    assert not (victim.home / "unpacked").exists()


def test_compressed_tar_bomb(victim: Victim, bundle: BundleDir) -> None:
    plain, path = victim.home / "plain.tar", victim.home / "bomb.tar.gz"
    pack_tar(bundle, plain)
    with tarfile.open(path, "w:gz") as tar:
        tar.add(plain, "plain.tar")
    victim.tries(lambda: unpack_tar(path, victim.home / "unpacked"))
    victim.refused(LAYOUT, "not a readable tar of a bundle")


# --- offline media ---------------------------------------------------------------------------


def medium(victim: Victim, **changes: object) -> MediaSet:
    mine = MediaDevice(device="cam-1", device_key=victim.device_key, hardware=HARDWARE)
    victim.publisher.targets.version += 1
    return victim.publisher.media_set(**{"devices": [mine], **changes})


def test_good_medium_is_taken_so_the_refusals_mean_something(victim: Victim) -> None:
    accepted = victim.agent.desk.medium(medium(victim))
    assert accepted.target.version == "1.0.0"
    victim.infers()


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        ({"fleet": "farm"}, "the medium is for farm"),
        ({"epoch": 3}, "epoch 3 was not begun"),
        ({"sequence": 0}, "replay: expected a medium after sequence 0"),
        ({"expires": NOW_S - 1}, "expired at"),
        ({"version": "6.6.6"}, "is not approved"),
        ({"manifest_digest": digest_of(b"evil")}, "is approved as"),
        ({"timestamp_version_min": 9}, "held back"),
        (
            {"devices": [MediaDevice(device="cam-2", device_key="0" * 64, hardware=HARDWARE)]},
            "is not in the medium's set of 1 devices",
        ),
    ],
    ids=["fleet", "epoch", "sequence", "expired", "version", "digest", "held back", "other device"],
)
def test_medium_with_the_wrong(change: dict[str, object], saying: str, victim: Victim) -> None:
    victim.tries(lambda: victim.agent.desk.medium(medium(victim, **change)))
    victim.refused("edge_agent.trust.media", saying)


def test_medium_played_again(victim: Victim) -> None:
    first = medium(victim)
    victim.agent.desk.medium(first)
    victim.tries(lambda: victim.agent.desk.medium(first))
    victim.refused("edge_agent.trust.media", "replay: expected a medium after sequence 1, got 1")


def test_medium_older_than_what_came_online(victim: Victim) -> None:
    old = medium(victim)
    victim.publisher.targets.version += 1
    victim.publisher.approve("1.1.0")
    victim.metadata()
    victim.tries(lambda: victim.agent.desk.medium(old))
    victim.refused("edge_agent.trust.offline_roles", "rollback, or a version out of sequence")


def test_online_metadata_older_than_what_a_medium_brought(victim: Victim) -> None:
    old = victim.publisher.metadata_set()
    victim.publisher.line.version += 5
    victim.agent.desk.medium(medium(victim))
    victim.metadata(old)
    victim.refused("edge_agent.trust.verifier", "is older than what a medium brought")


@pytest.mark.parametrize("part", ["offline_snapshot", "targets", "line_role", "directors"])
def test_mix_and_match_on_a_medium(part: str, victim: Victim) -> None:
    old = medium(victim)
    victim.publisher.offline_version += 1
    victim.publisher.name_director(expires=NOW_S + 9 * DAY_S)
    victim.publisher.approve("1.1.0")
    mixed = msgspec.structs.replace(medium(victim, sequence=2), **{part: getattr(old, part)})
    victim.tries(lambda: victim.agent.desk.medium(mixed))
    victim.refused("edge_agent.trust.offline_roles", "refused")


@pytest.mark.parametrize("slot", ["offline_snapshot", "offline_timestamp", "targets", "line_role"])
@pytest.mark.parametrize("kind", ["root", "offline_snapshot", "offline_timestamp"])
def test_medium_with_metadata_of_another_kind(slot: str, kind: str, victim: Victim) -> None:
    # One key for both offline roles is what a careless owner has: then the signatures fit.
    victim.publisher.keys["offline-timestamp"] = victim.publisher.keys["offline-snapshot"]
    targets = victim.publisher.targets
    for key in victim.publisher.keys["offline-snapshot"]:
        targets.add_key(ed25519_key(public_bytes(key)), "offline-timestamp")
    good = medium(victim)
    other = victim.publisher.roots[0] if kind == "root" else getattr(good, kind)
    if slot == kind:
        slot, other = "targets", b'{"signed": {"_type": "mirrors"}, "signatures": []}'
    victim.tries(lambda: victim.agent.desk.medium(msgspec.structs.replace(good, **{slot: other})))
    victim.refused("edge_agent.trust.offline_roles", "offline medium metadata refused")


def test_medium_signed_by_one_of_two_offline_keys(victim: Victim) -> None:
    victim.publisher.keys["offline-timestamp"] = victim.publisher.keys["offline-timestamp"][:1]
    victim.tries(lambda: victim.agent.desk.medium(medium(victim)))
    victim.refused("edge_agent.trust.offline_roles", "not signed by a threshold")


def test_medium_signed_by_stolen_online_keys(victim: Victim) -> None:
    online = [victim.publisher.keys["timestamp"][0], victim.publisher.keys["snapshot"][0]]
    victim.publisher.keys["offline-timestamp"] = online
    victim.publisher.keys["offline-snapshot"] = online
    victim.tries(lambda: victim.agent.desk.medium(medium(victim)))
    victim.refused("edge_agent.trust.offline_roles", "not signed by a threshold")


def test_medium_that_has_expired(victim: Victim) -> None:
    victim.agent.desk._floor = victim.agent.desk._floor.raised_to(NOW_S + 299 * DAY_S)
    victim.publisher.root.expires = victim.publisher.targets.expires
    victim.publisher.rotate_root()
    victim.publisher.offline_expires = victim.publisher.snapshot.expires
    victim.tries(lambda: victim.agent.desk.medium(medium(victim)))
    victim.refused("edge_agent.trust.offline_roles", "expired: the metadata is old")


def test_medium_of_a_line_key_that_was_replaced(victim: Victim) -> None:
    victim.publisher.keys[ROLE] = [Ed25519PrivateKey.generate()]
    victim.tries(lambda: victim.agent.desk.medium(medium(victim)))
    victim.refused("edge_agent.trust.offline_roles", "not signed by a threshold")


def test_endless_medium(victim: Victim) -> None:
    victim.tries(lambda: decode_media_set(b"[" * (3 << 20), where="media.json"))
    victim.refused("edge_contract.codec (size before parsing)", "at most 2097152 are accepted")


def test_medium_with_fields_of_the_wrong_kind(victim: Victim) -> None:
    data = encode_json({"line": LINE, "roots": "many"})
    victim.tries(lambda: decode_media_set(data, where="media.json"))
    victim.refused("edge_contract.codec", "not a valid MediaSet")
