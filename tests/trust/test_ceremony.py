"""What people sign in the life of a line: floors, retirement, renewal, and who it was."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from edge_contract.errors import TrustError
from fleet.errors import FleetError
from fleet.repository.ceremony import Ceremony
from fleet.repository.key_status import key_status
from fleet.repository.media_desk import MediaDesk
from fleet.repository.offline_files import sign_offline_files
from fleet.repository.outsider import verify_approval
from fleet.repository.tuf_repository import LIVE_VERSIONS_MAX, Repository
from tests.trust.bundle_maker import make_bundle
from tests.trust.office import Office
from tests.trust.tuf_simulator import DAY_S, NOW_S

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


def test_a_floor_above_all_that_is_approved_takes_a_word_and_its_signers_see_it(
    office: Office,
) -> None:
    with pytest.raises(FleetError, match="above every approved version") as no:
        office.ceremony.floor("digits", "9.9.9")
    assert "--yes" in no.value.hint
    assert not office.repository.archive.events.all()
    assert not office.ceremony.floor("digits", "9.9.9", above_all=True).committed
    told = [change.text for change in office.desk("ada").review(office.event()).changes]
    assert any("9.9.9" in text and "STOPS all new installs" in text for text in told), told
    office.sign("ada", "bob")
    assert not office.ceremony.floor("digits", "1.0.0").committed
    told = [change.text for change in office.desk("ada").review(office.event()).changes]
    assert any("LOWERED from 9.9.9" in text and "STOPS" not in text for text in told), told


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
    media = MediaDesk(office.repository, "olga")
    files = media.draft()
    for name in ("ada", "bob"):
        files = sign_offline_files(files, office.people[name], now_s=office.now_s)
    media.take(files)
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
    assert office.device() == {"1.0.0"}
    # What media carry is signed apart from that; who has let it lapse for long writes none.
    due = [row for row in key_status(office.repository.archive) if row.action]
    assert {row.role for row in due} == {"offline-snapshot", "offline-timestamp"}
    assert {row.action for row in due} == {"edge-fleet media prepare FILE"}
    assert {round(row.left_days) for row in due} == {55}
    office.now_s = NOW_S + 430 * DAY_S
    assert not [row for row in key_status(office.repository.archive) if "media" in row.action]


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
