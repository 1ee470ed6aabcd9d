"""What tests of several parts share: one real browser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, sync_playwright

from tests.programs import require_program

FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium a module: its event loop must not outlive the tests that look at pages."""
    program = require_program("chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        environment: dict[str, Any] = {"HOME": home, "PATH": "/usr/bin:/bin"}
        started = playwright.chromium.launch(executable_path=program, args=FLAGS, env=environment)
        yield started
        started.close()
