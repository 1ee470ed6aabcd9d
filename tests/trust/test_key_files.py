"""Key files: sealed, private, never overwritten."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.repository.key_files import new_key_file, open_key_file
from tests.trust.office import PASSPHRASE


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


@pytest.mark.parametrize("sealed", ["d2hlcnJ5", "d2hlcnJ5!", "d2hlcnJ", ""])
def test_damaged_key_file_is_told_in_a_sentence(sealed: str, tmp_path: Path) -> None:
    new_key_file(tmp_path, "ada", PASSPHRASE)
    path = tmp_path / "ada.key"
    file = json.loads(path.read_bytes()) | {"sealed": sealed}
    path.write_text(json.dumps(file))
    with pytest.raises(FleetError, match=r"key: (damaged|not a sealed|expected a sealed)"):
        open_key_file(path, PASSPHRASE)
