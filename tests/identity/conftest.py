"""A fleet with a CA on a real mosquitto."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.identity.secure_fleet import SecureFleet


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[SecureFleet]:
    """Broker and manager run, nobody is enrolled."""
    fleet = SecureFleet(tmp_path)
    try:
        fleet.start_manager()
        yield fleet
    finally:
        fleet.close()
