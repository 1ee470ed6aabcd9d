"""The office, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.office import Office, moved


@pytest.fixture(scope="session")
def first_office(tmp_path_factory: pytest.TempPathFactory) -> Office:
    """Made once, because sealing keys is meant to be slow; the tests work on copies."""
    return Office(tmp_path_factory.mktemp("office") / "home")


@pytest.fixture
def office(first_office: Office, tmp_path: Path) -> Office:
    return moved(first_office, tmp_path / "home")
