"""Offline roles for media: people sign what they are shown, and nothing that outlives the rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from tuf.api.metadata import Metadata, MetaFile

from edge_contract.codec import encode_json
from edge_contract.errors import ContractError, TrustError
from fleet.errors import FleetError
from fleet.manager.state_dir import StateDir
from fleet.repository.media_desk import MediaDesk
from fleet.repository.offline_files import (
    OfflineFiles,
    describe_offline_files,
    read_offline_files,
    sign_offline_files,
)
from tests.manager.test_command_line import edge_fleet
from tests.trust.office import Office


def signed(office: Office, files: OfflineFiles, *names: str) -> OfflineFiles:
    for name in names:
        files = sign_offline_files(files, office.people[name], now_s=office.now_s)
    return files


def test_offline_files_count_once_the_threshold_has_signed(office: Office) -> None:
    desk = MediaDesk(office.repository, "olga")
    files = desk.draft()
    shown = describe_offline_files(files)
    assert shown[0].startswith("fleet shop, number 1, until ")
    assert shown[1:] == ["line-digits.json version 2", "targets.json version 3"]
    files = signed(office, files, "ada")
    with pytest.raises(FleetError, match="needs 1 more of bob, cy"):
        desk.take(files)
    desk.take(signed(office, files, "bob"))


def test_a_second_draft_loses_no_signature_unless_it_is_told_to(office: Office) -> None:
    state = StateDir(office.home / "state")
    state.prepare("shop")
    file = office.home / "offline.json"
    prepare = ("media", "prepare", file)
    edge_fleet(*prepare, state=state.path)
    edge_fleet(*prepare, state=state.path)
    draft = read_offline_files(file)
    half = encode_json(sign_offline_files(draft, office.people["ada"], now_s=time.time()))
    file.write_bytes(half)
    error = edge_fleet(*prepare, state=state.path, code=2)
    assert "has signatures that a new draft would lose" in error["error"]
    assert "--replace" in error["hint"]
    assert file.read_bytes() == half
    edge_fleet(*prepare, "--replace", state=state.path)
    assert file.read_bytes() != half


def last_for_ever(metadata: Any) -> None:
    metadata.expires += timedelta(days=2000)


def leap(metadata: Any) -> None:
    metadata.version = 2**31


def smuggle(metadata: Any) -> None:
    metadata.unrecognized_fields["x-new"] = 1


def strange_role(metadata: Any) -> None:
    metadata.meta["\x1b[2Jline-digits.json"] = MetaFile(9)


@pytest.mark.parametrize(
    ("part", "change", "saying"),
    [
        ("snapshot", last_for_ever, "expected within 400 days"),
        ("timestamp", last_for_ever, "expected within 400 days"),
        ("snapshot", leap, "not of one number"),
        ("timestamp", leap, "not of one number"),
        ("timestamp", smuggle, "does not know"),
        ("snapshot", strange_role, "is no role of a fleet's"),
    ],
)
def test_signer_refuses_what_offline_files_do_not_show(
    part: str, change: Callable[[Any], None], saying: str, office: Office
) -> None:
    files = MediaDesk(office.repository, "olga").draft()
    metadata: Metadata[Any] = Metadata.from_bytes(getattr(files, part))
    change(metadata.signed)
    files = msgspec.structs.replace(files, **{part: metadata.to_bytes()})
    assert all(line.isprintable() for line in describe_offline_files(files))
    with pytest.raises(TrustError, match=saying):
        signed(office, files, "ada")


def test_fleet_of_offline_files_cannot_rewrite_the_screen(office: Office) -> None:
    files = MediaDesk(office.repository, "olga").draft()
    files = msgspec.structs.replace(files, fleet="shop\x1b[2J\n")
    assert all(line.isprintable() for line in describe_offline_files(files))
    with pytest.raises(ContractError, match="expected 1 to 63"):
        signed(office, files, "ada")
