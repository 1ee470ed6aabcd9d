"""Backups bring everything back, and a damaged one brings nothing."""

from __future__ import annotations

import pytest

from fleet.errors import FleetError
from fleet.repository.backup import make_backup, restore_backup
from tests.trust.office import PASSPHRASE, Office


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
