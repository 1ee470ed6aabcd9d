"""What tests of several parts share: the order of the files, and one real browser."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
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


LONG = (
    "trust/test_runbooks",
    "trust/test_token_keys",
    "agent/test_agent_damage",
    "tflite/test_two_sources",
    "agent/test_agent_alone",
    "console/test_orders",
    "console/test_pages",
    "console/test_live",
    "docs/test_tutorial",
    "compiler/test_shared_models",
    "package/test_wheel",
    "manager/test_rollout_over_mqtt",
    "identity/test_connecting",
    "docs/test_compile_your_model",
    "update/test_sigkill",
    "trust/test_crashes",
    "transfer/test_benchmarks",
    "identity/test_tutorial",
    "drift/test_drift_monitor",
    "transfer/test_media",
    "update/test_power_cut",
    "compiler/test_digits",
    "device/test_deb",
    "device/test_service",
    "device/test_fleet_service",
)
"""Files that take longest. A file is one worker's: the longest go first, so that no worker is left
with one of them when the others have ended."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The files of ``LONG`` in that order, then the others as they came."""
    tests = Path(__file__).parent
    place = {tests / f"{name}.py": number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path, len(LONG)))


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One Chromium a module: its event loop must not outlive the tests that look at pages."""
    program = require_program("chromium")
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as home:
        environment: dict[str, Any] = {"HOME": home, "PATH": "/usr/bin:/bin"}
        started = playwright.chromium.launch(executable_path=program, args=FLAGS, env=environment)
        yield started
        started.close()
