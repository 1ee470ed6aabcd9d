"""Root changes have no end: files carry hundreds, and nothing is signed that would not fit."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tuf.api.metadata import Metadata, Root

from edge_agent.trust.verifier import TrustStore
from edge_contract.codec import MESSAGE_LIMIT_BYTES
from edge_contract.errors import ContractError
from edge_contract.media import decode_media_set, encode_media_set
from edge_contract.metadata import (
    METADATA_FILE_LIMIT_BYTES,
    ROOTS_FILE_BYTES,
    decode_metadata_set,
    encode_metadata_set,
    newest_roots,
    retained,
)
from fleet.errors import FleetError
from fleet.repository.message_sizes import SIGNATURE_BYTES
from fleet.repository.signing_event import EVENT_LIMIT_BYTES, write_event
from tests.trust.media_simulator import MediaPublisher
from tests.trust.office import Office
from tests.trust.tuf_simulator import NOW_S

CHANGES = 300


@pytest.fixture(scope="module")
def publisher() -> MediaPublisher:
    """Of three root keys, two of which have to sign, and 300 root changes."""
    made = MediaPublisher(root_keys=3, root_threshold=2)
    made.approve("1.0.0")
    for _ in range(CHANGES):
        made.rotate_root()
    return made


def test_an_approval_file_brings_a_device_over_300_roots(
    publisher: MediaPublisher, tmp_path: Path
) -> None:
    data = encode_metadata_set(publisher.metadata_set())
    with pytest.raises(ContractError, match="at most 131072 are accepted"):
        decode_metadata_set(data, where="message")
    approval = decode_metadata_set(data, where="file", limit_bytes=METADATA_FILE_LIMIT_BYTES)
    store = TrustStore(tmp_path, root=publisher.roots[0])
    assert "1.0.0" in store.verify(approval, reference_s=NOW_S).targets
    assert store.root_version == CHANGES + 1


def test_a_medium_brings_a_device_over_300_roots_and_what_it_keeps_stays_small(
    publisher: MediaPublisher, tmp_path: Path
) -> None:
    media = decode_media_set(encode_media_set(publisher.media_set()), where="medium")
    store = TrustStore(tmp_path, root=publisher.roots[0])
    assert "1.0.0" in store.verify_media(media, reference_s=NOW_S).targets
    assert store.root_version == CHANGES + 1
    assert (tmp_path / "trusted.json").stat().st_size < 100_000
    kept = TrustStore(tmp_path).approved(reference_s=NOW_S)
    assert kept is not None
    assert "1.0.0" in kept.targets


@given(st.lists(st.integers(0, ROOTS_FILE_BYTES // 2), max_size=12))
def test_a_file_carries_the_newest_roots_that_fit_and_as_many_as_fit(sizes: list[int]) -> None:
    blank = bytes(ROOTS_FILE_BYTES // 2)
    roots = [blank[:size] for size in sizes]
    kept = newest_roots(roots)
    left_out = len(roots) - len(kept)
    assert kept == roots[left_out:]
    assert sum(map(len, kept)) <= ROOTS_FILE_BYTES
    if left_out:
        assert sum(map(len, kept)) + len(roots[left_out - 1]) > ROOTS_FILE_BYTES


def test_a_full_file_of_roots_leaves_room_for_the_rest(office: Office, tmp_path: Path) -> None:
    roots = newest_roots([bytes(64 << 10)] * 100)
    assert sum(map(len, roots)) == ROOTS_FILE_BYTES
    set_of = office.repository.metadata_set("digits")
    size_bytes = len(encode_metadata_set(set_of)) + ROOTS_FILE_BYTES * 4 // 3
    assert size_bytes + MESSAGE_LIMIT_BYTES < METADATA_FILE_LIMIT_BYTES
    office.ceremony.renew()
    write_event(tmp_path / "event", office.event())
    event_bytes = (tmp_path / "event").stat().st_size + ROOTS_FILE_BYTES * 4 // 3
    assert event_bytes + 4 * MESSAGE_LIMIT_BYTES < EVENT_LIMIT_BYTES


def test_what_is_retained_does_not_grow_with_root_changes(office: Office) -> None:
    def size_bytes() -> int:
        return len(encode_metadata_set(retained(office.repository.metadata_set("digits"))))

    before = size_bytes()
    for _ in range(3):
        office.ceremony.renew()
        office.sign("ada", "bob")
    assert size_bytes() < before + 100
    office.device()


def test_what_would_not_fit_is_refused_before_anybody_signs(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = "fleet.repository.message_sizes.MESSAGE_LIMIT_BYTES"
    fits = len(encode_metadata_set(retained(office.repository.metadata_set("digits"))))
    monkeypatch.setattr(limit, fits + SIGNATURE_BYTES)
    with pytest.raises(FleetError, match="the signed metadata of 'digits' would be") as caught:
        office.ceremony.renew()
    assert "edge-fleet line retire digits" in caught.value.hint
    assert office.repository.archive.events.all() == []
    monkeypatch.setattr(limit, 1000)
    with pytest.raises(FleetError, match="the root would be"):
        office.ceremony.renew()
    monkeypatch.undo()
    office.ceremony.renew()
    office.sign("ada", "bob")
    newest = Metadata[Root].from_bytes(office.repository.root_bytes())
    assert newest.signed.version == len(office.repository.roots())
