"""Signing events: what a signer is shown, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, TargetFile

from edge_contract.errors import ContractError, TrustError
from edge_contract.signing import ed25519_key, public_bytes
from fleet.cli import main
from fleet.errors import FleetError
from fleet.repository.signing_event import SigningEvent, read_event, write_event
from tests.trust.bundle_maker import make_bundle
from tests.trust.office import Office


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


def test_damaged_event_can_be_cancelled_and_asked_for_anew(office: Office) -> None:
    office.publish("1.1.0")
    (path,) = (office.home / "state" / "signing").iterdir()
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(FleetError, match="not a valid SigningEvent") as caught:
        office.publish("1.2.0")
    assert "edge-fleet event cancel line-digits-3" in caught.value.hint
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


def test_key_under_the_id_of_another_is_refused(office: Office) -> None:
    """The signer compares ids; TUF binds none to the key that it stands for."""
    dora, eve = office.person("dora"), office.person("eve")
    office.ceremony.rotate("line-digits", [office.people["ada"].public, dora.public], 1)

    def swap(signed: Any) -> None:
        signed.delegations.keys[dora.public.keyid].keyval = eve.public.tuf_key().keyval

    event = forged(office, office.event(), "targets", swap)
    with pytest.raises(TrustError, match=r"what .* names is not the key of this id"):
        office.desk("ada").review(event)


def test_new_line_in_other_hands_than_the_targets_role_is_refused(office: Office) -> None:
    office.repository.publish(make_bundle(office.home / "faces", name="faces").path)
    mallory = office.person("mallory").public
    named = msgspec.structs.replace(mallory, owner="ada").tuf_key()
    key_of_cy = office.people["cy"].public.keyid

    def add(signed: Any) -> None:
        signed.add_key(named, "line-faces")
        signed.revoke_key(key_of_cy, "line-faces")

    def lower(signed: Any) -> None:
        signed.delegations.roles["line-faces"].threshold = 1

    for change in (add, lower):
        event = forged(office, office.event(), "targets", change)
        with pytest.raises(TrustError, match="is not to the targets role's keys"):
            office.desk("ada").review(event)


def test_line_that_is_left_out_of_the_base_cannot_begin_anew(office: Office) -> None:
    """As version 1 it would hide what was retired since, and the floor."""
    office.publish("1.1.0")
    event = office.event()

    def begin_anew(signed: Any) -> None:
        signed.version = 1

    event = forged(office, event, "line-digits", begin_anew)
    event = msgspec.structs.replace(event, base={"targets": event.base["targets"]})
    with pytest.raises(TrustError, match="line-digits is left out of its base"):
        office.desk("ada").review(event)


@pytest.mark.parametrize("fleet", ["../../elsewhere", "/tmp/elsewhere", "a\0b", "9" * 5000, ""])
def test_fleet_of_an_event_leads_to_no_file_of_its_choice(fleet: str, office: Office) -> None:
    office.publish("1.1.0")
    path = office.home / "event.json"
    write_event(path, msgspec.structs.replace(office.event(), fleet=fleet))
    with pytest.raises(ContractError, match="expected 1 to 63 lower-case letters"):
        read_event(path)


@pytest.mark.parametrize("word", [7, None, ["a"]])
def test_key_ids_that_are_no_text_are_refused_in_words(word: object, office: Office) -> None:
    office.ceremony.rotate("line-digits", [office.people["ada"].public], 1)

    def change(signed: Any) -> None:
        signed.delegations.roles["line-digits"].keyids.append(word)

    event = forged(office, office.event(), "targets", change)
    with pytest.raises(TrustError, match=r"no text|not what was signed|not TUF metadata"):
        office.desk("ada").review(event)


def test_targets_in_the_place_of_a_root_are_refused_in_words(office: Office) -> None:
    office.publish("1.1.0")
    event = office.event()
    targets: Metadata[Any] = Metadata.from_bytes(event.base["targets"])
    targets.signed.version = len(event.roots) + 1
    for name in ("ada", "bob"):
        targets.sign(office.people[name].signer, append=name == "bob")
    with pytest.raises(TrustError, match="not what was signed"):
        office.desk("ada").review(
            msgspec.structs.replace(event, roots=[*event.roots, targets.to_bytes()])
        )


def test_words_of_an_event_cannot_rewrite_what_its_signer_is_shown(
    office: Office, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fleet.clock.SystemClock.wall_s", lambda clock: office.now_s)
    office.publish("1.1.0")
    path, root = tmp_path / "event.json", tmp_path / "root.json"
    hidden = "\x1b[2A\x1b[J\n  digits/1.0.1 is APPROVED: sha256:good\u202e"
    write_event(path, msgspec.structs.replace(office.event(), reason=hidden))
    root.write_bytes(office.first_root)
    shown = CliRunner().invoke(
        main,
        ["approve", str(path), "--trust", str(root), "--memory", str(tmp_path / "memory")],
        standalone_mode=False,
    )
    assert shown.exception is None, shown.exception
    lines = shown.output.splitlines()
    assert [line for line in lines if line.startswith("  ")] == [
        line for line in lines if "digits/1.1.0 is APPROVED" in line or "expires" in line
    ]
    assert "\x1b" not in shown.output
    assert "\u202e" not in shown.output


def test_damaged_memory_of_a_signer_says_what_was_lost(office: Office) -> None:
    office.publish("1.1.0")
    office.signed_by("ada", office.event())
    path = office.home / "memory-ada" / "shop.json"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(FleetError, match="what this signer has seen so far is damaged") as caught:
        office.desk("ada").review(office.event(), trust=office.first_root)
    assert "from a backup" in caught.value.hint


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
