"""Signing events: what a signer is shown, what is refused, and what a crash or a rival leaves."""

from __future__ import annotations

import copy
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile

from edge_agent.trust.verifier import TrustStore
from edge_contract.errors import ExitCode, TrustError
from edge_contract.signing import ed25519_key, public_bytes
from fleet.errors import FleetError
from fleet.repository.audit_log import AuditLog, verify_audit
from fleet.repository.backup import make_backup, restore_backup
from fleet.repository.ceremony import Ceremony
from fleet.repository.key_files import HeldKey, new_key_file, open_key_file
from fleet.repository.key_status import key_status
from fleet.repository.outsider import verify_approval
from fleet.repository.signer_desk import SignerDesk
from fleet.repository.signing_event import SigningEvent
from fleet.repository.tuf_repository import LIVE_VERSIONS_MAX, Repository
from tests.trust.bundle_maker import make_bundle
from tests.trust.tuf_simulator import DAY_S, NOW_S

PASSPHRASE = "correct horse battery"


class Office:
    """A repository whose keys ada, bob and cy hold, two of three; and a device."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.now_s = NOW_S
        self.first_root = b""
        self.repository.initialise()
        self.first_root = self.repository.root_bytes()
        self.publish("1.0.0")
        self.people = {name: self.person(name) for name in ("ada", "bob", "cy")}
        self.ceremony.adopt([item.public for item in self.people.values()], 2)
        self.sign("ada", "bob")

    @property
    def repository(self) -> Repository:
        return Repository(self.home / "state", "shop", lambda: self.now_s)

    @property
    def ceremony(self) -> Ceremony:
        return Ceremony(self.repository, "olga")

    def person(self, name: str) -> HeldKey:
        new_key_file(self.home, name, PASSPHRASE)
        return open_key_file(self.home / f"{name}.key", PASSPHRASE)

    def publish(self, version: str) -> Any:
        path = self.home / version
        made = path if path.exists() else make_bundle(path, version=version).path
        return self.repository.publish(made)

    def event(self) -> SigningEvent:
        (event,) = self.repository.archive.events.all()
        return event

    def desk(self, name: str) -> SignerDesk:
        return SignerDesk(self.home / f"memory-{name}", self.now_s)

    def signed_by(self, name: str, event: SigningEvent) -> SigningEvent:
        desk = self.desk(name)
        review = desk.review(event, trust=self.first_root)
        return desk.sign(review, self.people[name])[0]

    def sign(self, *names: str) -> None:
        event = self.event()
        for name in names:
            event = self.signed_by(name, event)
        assert self.ceremony.submit(event).committed

    def device(self, line: str = "digits") -> set[str]:
        store = TrustStore(self.home / "device", root=self.first_root)
        return set(store.verify(self.repository.metadata_set(line), reference_s=self.now_s).targets)


@pytest.fixture(scope="module")
def first_office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Made once, because sealing keys is meant to be slow; the tests work on copies."""
    return Office(tmp_path_factory.mktemp("office") / "home")


def moved(office: Office, home: Path) -> Office:
    shutil.copytree(office.home, home, symlinks=True)
    copied = copy.copy(office)
    copied.home = home
    copied.people = dict(office.people)
    return copied


@pytest.fixture
def office(first_office: Office, tmp_path: Path) -> Office:
    return moved(first_office, tmp_path / "home")


def forged(office: Office, event: SigningEvent, role: str, change: Callable[[Any], None]) -> Any:
    """The event with a proposal that the manager altered."""
    metadata: Metadata[Any] = Metadata.from_bytes(event.proposed[role])
    change(metadata.signed)
    proposed = {**event.proposed, role: metadata.to_bytes()}
    return msgspec.structs.replace(event, proposed=proposed)


# --- the way of an approval ------------------------------------------------------------------


def test_version_counts_when_the_threshold_has_signed_and_not_before(office: Office) -> None:
    published = office.publish("1.1.0")
    assert not published.outcome.committed
    assert [item.owners for item in published.outcome.missing] == [("ada", "bob", "cy")]
    assert office.device() == {"1.0.0"}
    event = office.signed_by("cy", office.event())
    outcome = office.ceremony.submit(event)
    assert [item.owners for item in outcome.missing] == [("ada", "bob")]
    assert office.device() == {"1.0.0"}
    office.sign("bob")
    assert office.device() == {"1.0.0", "1.1.0"}
    assert office.repository.archive.events.all() == []


def test_signatures_given_side_by_side_add_up(office: Office) -> None:
    office.publish("1.1.0")
    event = office.event()
    assert not office.ceremony.submit(office.signed_by("ada", event)).committed
    assert office.ceremony.submit(office.signed_by("cy", event)).committed


def test_second_event_of_a_line_waits_for_the_first(office: Office) -> None:
    office.publish("1.1.0")
    with pytest.raises(FleetError, match=r"signing event 'line-digits-3' .* is open"):
        office.publish("1.2.0")
    office.ceremony.cancel("line-digits-3")
    office.publish("1.2.0")
    office.sign("ada", "cy")
    assert office.device() == {"1.0.0", "1.2.0"}


def test_new_line_is_delegated_to_the_people_and_needs_both_roles(office: Office) -> None:
    office.repository.publish(make_bundle(office.home / "faces", name="faces").path)
    assert set(office.event().proposed) == {"targets", "line-faces"}
    office.sign("bob", "cy")
    assert office.device() == {"1.0.0"}
    assert set(office.repository.lines()) == {"digits", "faces"}


def test_signer_sees_the_difference_in_words(office: Office) -> None:
    digest = office.publish("1.1.0").digest
    review = office.desk("ada").review(office.event())
    assert [change.kind for change in review.changes] == ["version"]
    assert review.changes[0].text == f"digits/1.1.0 is APPROVED: {digest}"


# --- what a signer refuses -------------------------------------------------------------------


def add_target(signed: Any) -> None:
    signed.targets["digits/6.6.6"] = TargetFile.from_data("digits/6.6.6", b"{}", ["sha256"])


def change_target(signed: Any) -> None:
    signed.targets["digits/1.0.0"] = TargetFile.from_data("digits/1.0.0", b"evil", ["sha256"])


def skip_version(signed: Any) -> None:
    signed.version += 1


def last_for_ever(signed: Any) -> None:
    signed.expires = signed.expires.replace(year=2099)


def add_field(signed: Any) -> None:
    signed.unrecognized_fields["x-new"] = 1


def lower_floor(signed: Any) -> None:
    signed.unrecognized_fields["x-wherry-min-release"] = "0.0.1"


@pytest.mark.parametrize(
    ("change", "saying"),
    [
        (change_target, "a version never changes"),
        (skip_version, "version 4, expected 3"),
        (last_for_ever, "expected within 400 days"),
        (add_field, "'x-new' is changed, which no signing event may do"),
        (lower_floor, "must not change this: line-digits: no new install below"),
    ],
)
def test_signer_refuses_what_is_not_the_event_s_business(
    change: Callable[[Any], None], saying: str, office: Office
) -> None:
    office.publish("1.1.0")
    event = forged(office, office.event(), "line-digits", change)
    with pytest.raises(TrustError, match=saying):
        office.desk("ada").review(event)


def test_version_slipped_in_is_shown_to_the_signer(office: Office) -> None:
    office.publish("1.1.0")
    event = forged(office, office.event(), "line-digits", add_target)
    texts = [change.text for change in office.desk("ada").review(event).changes]
    assert any("digits/6.6.6 is APPROVED" in text for text in texts)
    with pytest.raises(TrustError, match="proposes something else than what was asked for"):
        office.ceremony.submit(office.signed_by("ada", event))


def test_key_cannot_be_slipped_into_an_approval(office: Office) -> None:
    thief = ed25519_key(public_bytes(office.repository.director_key()))
    office.repository.publish(make_bundle(office.home / "faces", name="faces").path)
    event = forged(
        office, office.event(), "targets", lambda signed: signed.add_key(thief, "line-digits")
    )
    with pytest.raises(TrustError, match=r"must not change this: line-digits: key .* is ADDED"):
        office.desk("ada").review(event)


def test_directors_cannot_be_slipped_into_an_approval(office: Office) -> None:
    office.publish("1.1.0")
    event = office.event()
    other = event.directors.replace(b'"epoch":1', b'"epoch":9')
    assert other != event.directors
    with pytest.raises(TrustError, match=r"directors\.json is not what the targets role names"):
        office.desk("ada").review(msgspec.structs.replace(event, directors=other))


def test_signer_refuses_to_build_upon_less_than_it_has_seen(office: Office) -> None:
    office.publish("1.1.0")
    old = office.event()
    office.sign("ada", "bob")
    office.publish("1.2.0")
    office.sign("ada", "bob")
    with pytest.raises(TrustError, match="rollback"):
        office.desk("ada").review(old)


def test_signer_refuses_a_fork_of_what_it_has_seen(office: Office, tmp_path: Path) -> None:
    office.publish("1.1.0")
    office.sign("ada", "bob")
    office.publish("1.2.0")
    event = office.event()
    metadata: Metadata[Any] = Metadata.from_bytes(event.base["line-digits"])
    metadata.signed.targets.pop("digits/1.1.0")
    for name in ("bob", "cy"):  # two thieves with good keys
        metadata.sign(office.people[name].signer, append=name == "cy")
    base = {**event.base, "line-digits": metadata.to_bytes()}
    office.desk("ada").review(event)
    office.signed_by("ada", event)
    with pytest.raises(TrustError, match="is not the one that this signer has seen"):
        office.desk("ada").review(msgspec.structs.replace(event, base=base))


def test_signer_without_a_root_trusts_no_event(office: Office) -> None:
    office.publish("1.1.0")
    with pytest.raises(FleetError, match="does not know the fleet 'shop' yet"):
        office.desk("dora").review(office.event())


def test_base_that_the_roots_do_not_sign_is_refused(office: Office) -> None:
    office.publish("1.1.0")
    event = office.event()
    metadata: Metadata[Any] = Metadata.from_bytes(event.base["targets"])
    metadata.signed.version += 1
    base = {**event.base, "targets": metadata.to_bytes()}
    with pytest.raises(TrustError, match="not what was signed"):
        office.desk("ada").review(msgspec.structs.replace(event, base=base))


def test_key_that_counts_for_nothing_signs_nothing(office: Office) -> None:
    office.people["eve"] = office.person("eve")
    office.publish("1.1.0")
    with pytest.raises(FleetError, match="counts for none of the roles"):
        office.signed_by("eve", office.event())


def test_signatures_of_strangers_are_not_taken_over(office: Office) -> None:
    office.publish("1.1.0")
    event = office.event()
    metadata: Metadata[Any] = Metadata.from_bytes(event.proposed["line-digits"])
    thief = office.repository.director_key()
    metadata.sign(CryptoSigner(thief, ed25519_key(public_bytes(thief))), append=True)
    given = msgspec.structs.replace(event, proposed={"line-digits": metadata.to_bytes()})
    assert not office.ceremony.submit(given).committed
    kept: Metadata[Any] = Metadata.from_bytes(office.event().proposed["line-digits"])
    assert not kept.signatures


# --- key files -------------------------------------------------------------------------------


def test_key_file_needs_its_passphrase_and_is_private(tmp_path: Path) -> None:
    public = new_key_file(tmp_path, "ada", PASSPHRASE)
    path = tmp_path / "ada.key"
    assert path.stat().st_mode & 0o777 == 0o600
    assert open_key_file(path, PASSPHRASE).public.keyid == public.keyid
    with pytest.raises(FleetError, match="wrong passphrase") as caught:
        open_key_file(path, "wrong horse battery")
    assert caught.value.exit_code is ExitCode.AUTH
    path.chmod(0o644)
    with pytest.raises(FleetError, match="lets others read a signing key"):
        open_key_file(path, PASSPHRASE)


@pytest.mark.parametrize("name", ["", "Ada", "../ada", "a" * 41, "a b"])
def test_odd_key_names_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="lower-case letters"):
        new_key_file(tmp_path, name, PASSPHRASE)


def test_short_passphrase_is_refused_and_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(FleetError, match="the passphrase has 3 characters"):
        new_key_file(tmp_path, "ada", "abc")
    assert list(tmp_path.iterdir()) == []


def test_key_is_never_overwritten(tmp_path: Path) -> None:
    new_key_file(tmp_path, "ada", PASSPHRASE)
    with pytest.raises(FleetError, match="exists already"):
        new_key_file(tmp_path, "ada", PASSPHRASE)


# --- lines -----------------------------------------------------------------------------------


def test_floor_and_retirement_are_signed_by_people(office: Office) -> None:
    office.publish("1.1.0")
    office.sign("ada", "bob")
    assert not office.ceremony.floor("digits", "1.1.0").committed
    office.sign("bob", "cy")
    assert not office.ceremony.retire("digits", "1.0.0").committed
    office.sign("ada", "cy")
    assert office.device() == {"1.1.0"}
    with pytest.raises(FleetError, match=r"0\.9\.0 is below the line's floor 1\.1\.0"):
        office.publish("0.9.0")


def test_retired_version_never_comes_back_with_another_content(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "state", "shop", lambda: NOW_S)
    repository.publish(make_bundle(tmp_path / "a").path)
    Ceremony(repository, "olga").retire("digits", "1.0.0")
    with pytest.raises(FleetError, match="A version never changes"):
        repository.publish(make_bundle(tmp_path / "b", weights=b"other").path)
    assert repository.publish(make_bundle(tmp_path / "a2").path).outcome.committed


def test_oldest_versions_are_retired_beyond_the_limit(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "state", "shop", lambda: NOW_S)
    for number in range(LIVE_VERSIONS_MAX + 2):
        version = f"1.{number}.0"
        repository.publish(make_bundle(tmp_path / version, version=version).path)
    versions = [item.version for item in repository.published()]
    assert len(versions) == LIVE_VERSIONS_MAX
    assert versions[0] == "1.2.0"


# --- time ------------------------------------------------------------------------------------


def test_status_reminds_before_people_s_signatures_expire(office: Office) -> None:
    assert not [row for row in key_status(office.repository.archive) if row.action]
    office.now_s = NOW_S + 310 * DAY_S
    assert office.repository.refresh_timestamp()
    due = [row for row in key_status(office.repository.archive) if row.action]
    assert {row.action for row in due} == {"edge-fleet key renew"}
    assert {"root", "targets", "line-digits"} <= {row.role for row in due}
    office.ceremony.renew()
    kinds = {change.kind for change in office.desk("ada").review(office.event()).changes}
    assert kinds == {"expiry"}
    office.sign("ada", "bob")
    assert not [row for row in key_status(office.repository.archive) if row.action]
    assert office.device() == {"1.0.0"}


def test_manager_does_not_touch_what_people_sign(office: Office) -> None:
    before = office.repository.metadata_set("digits")
    office.now_s = NOW_S + 200 * DAY_S
    assert office.repository.refresh_timestamp()
    after = office.repository.metadata_set("digits")
    assert (after.targets, after.line_role, after.roots) == (
        before.targets,
        before.line_role,
        before.roots,
    )
    assert after.timestamp != before.timestamp


# --- crashes ---------------------------------------------------------------------------------


def killed_at_fsync(number: int, work: Callable[[], object]) -> int:
    """Run ``work`` in a child that is killed at its ``number``-th fsync; its wait status."""
    pid = os.fork()
    if pid == 0:
        seen, real = 0, os.fsync

        def fsync(handle: int) -> None:
            nonlocal seen
            if seen == number:
                os.kill(os.getpid(), signal.SIGKILL)
            seen += 1
            real(handle)

        os.fsync = fsync
        try:
            work()
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitpid(pid, 0)[1]


def test_crash_in_a_root_rotation_with_a_new_timestamp_key_leaves_old_or_new(
    tmp_path: Path,
) -> None:
    """The root and the timestamp that it needs are two files; devices never see one alone."""
    outcomes = []
    for number in range(100):
        home = tmp_path / str(number)
        repository = Repository(home / "state", "shop", lambda: NOW_S)
        repository.publish(make_bundle(home / "b").path)
        first = repository.root_bytes()
        ceremony = Ceremony(repository, "olga")
        status = killed_at_fsync(number, lambda c=ceremony: c.rotate("timestamp", [], None))  # type: ignore[misc]
        again = Repository(home / "state", "shop", lambda: NOW_S)
        store = TrustStore(home / "device", root=first)
        assert store.verify(again.metadata_set("digits"), reference_s=NOW_S).targets
        outcomes.append(store.root_version)
        if status == 0:
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
        status = killed_at_fsync(number, lambda o=office, e=event: o.ceremony.submit(e))  # type: ignore[misc]
        outcomes.append(office.device() == {"1.0.0", "1.1.0"})
        if status == 0:
            break
        if not outcomes[-1]:
            assert office.ceremony.submit(event).committed
        assert office.publish("1.1.0").already
    else:
        pytest.fail("it never came to its end")
    assert outcomes == sorted(outcomes)


# --- the audit log ---------------------------------------------------------------------------


@pytest.fixture
def audited(office: Office) -> tuple[bytes, list[bytes], list[str]]:
    office.publish("1.1.0")
    office.sign("ada", "bob")
    approval = office.repository.metadata_set("digits")
    chain = verify_approval(approval, office.first_root, office.now_s)
    keys = [bytes.fromhex(public) for public in chain.directors.audit_keys]
    return office.repository.archive.audit.read(), keys, [chain.audit_head]


def test_audit_log_says_who_did_what(audited: tuple[bytes, list[bytes], list[str]]) -> None:
    entries = verify_audit(*audited)
    assert [(item.who, item.action) for item in entries] == [
        ("edge-fleet", "publish"),
        ("olga", "propose"),
        ("olga", "keys"),
        ("edge-fleet", "propose"),
        ("olga", "publish"),
    ]
    assert "signed by" in entries[-1].detail


@pytest.mark.parametrize("at", range(5))
@pytest.mark.parametrize("how", ["removed", "edited", "moved", "doubled"])
def test_audit_log_that_was_tampered_with_is_refused(
    how: str, at: int, audited: tuple[bytes, list[bytes], list[str]]
) -> None:
    data, keys, heads = audited
    lines = data.splitlines(keepends=True)
    if how == "removed":
        del lines[at]
    elif how == "edited":
        lines[at] = lines[at].replace(b'"who":"', b'"who":"x')
    elif how == "moved":
        lines.insert((at + 2) % 5, lines.pop(at))
    else:
        lines.insert(at, lines[at])
    with pytest.raises(TrustError, match="audit log"):
        verify_audit(b"".join(lines), keys, heads)


def test_audit_log_written_anew_with_a_stolen_key_does_not_match_signed_timestamps(
    audited: tuple[bytes, list[bytes], list[str]], office: Office, tmp_path: Path
) -> None:
    _, keys, heads = audited
    thief = office.repository.keys.load("audit")
    rewritten = AuditLog(tmp_path / "new.jsonl")
    for number in range(5):
        rewritten.append(thief, NOW_S, "nobody", "publish", str(number), "")
    with pytest.raises(TrustError, match="its end was removed or rewritten"):
        verify_audit(rewritten.read(), keys, heads)


def test_half_a_line_of_a_crash_is_written_over(office: Office) -> None:
    path = office.home / "state" / "audit.jsonl"
    before = path.read_bytes()
    path.write_bytes(before + b'{"number":99')
    office.publish("1.1.0")
    assert path.read_bytes().startswith(before)
    assert b'"number":99' not in path.read_bytes()


# --- outsiders and backups -------------------------------------------------------------------


def test_outsider_learns_who_signed(office: Office) -> None:
    office.publish("1.1.0")
    office.sign("bob", "cy")
    approval = office.repository.metadata_set("digits")
    chain = verify_approval(approval, office.first_root, NOW_S)
    signers = {role.role: role.signers for role in chain.roles}
    assert signers["line-digits"] == ("bob", "cy")
    assert signers["timestamp"] == ("the manager",)
    with pytest.raises(TrustError, match="does not hold"):
        verify_approval(approval, office.first_root, NOW_S + 400 * DAY_S)
    broken = msgspec.structs.replace(approval, directors=approval.directors + b" ")
    with pytest.raises(TrustError, match="does not hold"):
        verify_approval(broken, office.first_root, NOW_S)


def test_backup_brings_everything_back(office: Office) -> None:
    make_backup(office.home / "state", office.home / "b", PASSPHRASE, blobs=True)
    assert (office.home / "b").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FleetError, match=r"holds .* already"):
        restore_backup(office.home / "b", office.home / "state", PASSPHRASE)
    before = office.repository.metadata_set("digits")
    (office.home / "state").rename(office.home / "gone")
    with pytest.raises(FleetError, match="wrong passphrase"):
        restore_backup(office.home / "b", office.home / "state", "something else")
    assert not (office.home / "state").exists()
    restore_backup(office.home / "b", office.home / "state", PASSPHRASE)
    assert office.repository.metadata_set("digits") == before
    assert office.publish("1.0.0").already
    office.publish("1.1.0")
    office.sign("ada", "bob")


@pytest.mark.parametrize("damage", ["cut", "flip", "drop"])
def test_damaged_backup_is_refused_and_leaves_nothing(damage: str, office: Office) -> None:
    path = office.home / "b"
    make_backup(office.home / "state", path, PASSPHRASE, blobs=True)
    data = bytearray(path.read_bytes())
    if damage == "cut":
        del data[-40:]
    elif damage == "flip":
        data[len(data) // 2] ^= 1
    else:
        del data[60:90]
    path.write_bytes(data)
    with pytest.raises(FleetError):
        restore_backup(path, office.home / "new", PASSPHRASE)
    assert not (office.home / "new").exists()
