"""Keys in a token: what is said where the library or the extra is missing."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from edge_contract.errors import ExitCode
from fleet.errors import FleetError
from fleet.repository.token_keys import import_token_key, open_token_key, token_name


def test_token_is_named_apart_from_files() -> None:
    assert token_name("hsm:ada") == "ada"
    assert token_name("ada.key") == ""


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYKCS11LIB", raising=False)
    with pytest.raises(FleetError, match="PYKCS11LIB does not name") as caught:
        import_token_key("ada")
    assert caught.value.exit_code is ExitCode.USAGE


def test_missing_extra_or_token_is_one_clear_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYKCS11LIB", str(tmp_path / "none.so"))
    installed = importlib.util.find_spec("pkcs11") is not None
    with pytest.raises(FleetError) as caught:
        open_token_key("ada", "1234")
    assert installed or caught.value.hint == "pip install 'wherry[hsm]'"
