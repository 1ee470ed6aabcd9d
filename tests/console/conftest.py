"""The console as people meet it: served by uvicorn, looked at with Debian's Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from fleet.console.app import routes
from fleet.manager.http_api import build_app
from fleet.manager.http_server import HttpServer, bind
from fleet.service import FleetService
from tests.console.scene import Scene

WHO = "console (test)"

# Longer than the default: a busy machine is no finding.
expect.set_options(timeout=20_000)


def serve(service: FleetService, port: int = 0) -> HttpServer:
    """The whole app around ``service``, as ``edge-fleet up`` serves it."""
    app = build_app(service, "the-token-of-the-api", routes(service, who=WHO))
    server = HttpServer(app, bind(port))
    server.start()
    return server


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """A fleet with a past; tests of one module share it and change nothing."""
    made = Scene(tmp_path_factory.mktemp("scene"))
    for url in _served(made):
        made.url = url
        yield made


@pytest.fixture(scope="module")
def url(scene: Scene) -> str:
    """Where the scene is served."""
    return scene.url


class Watched:
    """A browser page that remembers what must not happen."""

    def __init__(self, page: Page, url: str) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.requests: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.troubles.append(f"page error: {error}"))
        page.on("request", lambda request: self.requests.append(request.url))
        self._url = url

    def go(self, path: str) -> Page:
        """Load a page and wait until its stream is there."""
        answer = self.page.goto(self._url + path)
        assert answer is not None
        assert answer.status == 200, answer.text()
        self.page.wait_for_selector("#live[data-live=live]")
        return self.page

    @property
    def external(self) -> list[str]:
        """Requests that left the console."""
        return [url for url in self.requests if not url.startswith(f"{self._url}/")]

    def _console(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.troubles.append(f"{message.type}: {message.text}")


@pytest.fixture
def open_browser(browser: Browser, url: str) -> Iterator[Callable[..., Watched]]:
    """Make a page in a context with the options given; all are closed after the test."""
    contexts = []

    def make(*, at: str = url, **options: Any) -> Watched:
        options.setdefault("viewport", {"width": 1280, "height": 860})
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        return Watched(page, at)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def watched(open_browser: Callable[..., Watched]) -> Watched:
    """A page 1280 pixels wide."""
    return open_browser()


@pytest.fixture(scope="module")
def empty_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A fleet in which nothing has happened yet."""
    yield from _served(Scene(tmp_path_factory.mktemp("empty"), empty=True))


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Scene]:
    """A scene of one test's own, to press buttons in; ``fresh.url`` is where it is served."""
    made = Scene(tmp_path)
    for url in _served(made):
        made.url = url
        yield made


def _served(scene: Scene) -> Iterator[str]:
    scene.start()
    server = serve(scene.service)
    yield server.url
    scene.manager.feed.close()  # as ``edge-fleet up`` does: open streams end first
    server.stop()
    scene.stop()
