"""A publisher with one approved version, and a client that was given its root."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.trust.conformance.client import Client
from tests.trust.tuf_simulator import Publisher


@pytest.fixture
def publisher() -> Publisher:
    publisher = Publisher()
    publisher.approve("1.0.0")
    return publisher


@pytest.fixture
def client(publisher: Publisher, tmp_path: Path) -> Client:
    return Client(tmp_path / "client", publisher)
