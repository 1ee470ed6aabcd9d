"""What holds for every page, in a real browser."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page

from fleet.views.manager import Reminder
from tests.console.conftest import Watched
from tests.console.scene import DARK, Scene

AXE = (Path(__file__).parent / "axe-4.14.1.min.js").read_text()
PAGES = (
    "/",
    "/rollouts",
    "/rollouts/digits-1.3.0",
    "/rollouts/digits-1.2.0",
    "/rollouts/new",
    "/devices",
    f"/devices/{DARK}",
    "/devices/cam-12",
    "/models",
    "/drift",
)


def violations(page: Page) -> list[str]:
    """What axe-core finds, one line each."""
    page.evaluate(AXE)
    found = page.evaluate("axe.run().then(result => result.violations)")
    return [
        f"{item['id']} ({item['impact']}): {[node['html'][:160] for node in item['nodes'][:3]]}"
        for item in found
    ]


@pytest.mark.parametrize("path", PAGES)
def test_page_is_clean_in_light_and_dark_fits_390_pixels_and_opens_one_stream(
    open_browser: Callable[..., Watched], path: str
) -> None:
    watched = open_browser(color_scheme="light")
    page = watched.go(path)
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert violations(page) == []
    assert watched.troubles == []
    assert watched.external == []
    assert sum("/live/" in request for request in watched.requests) == 1


@pytest.mark.parametrize(
    "path", ["/", "/rollouts", "/rollouts/new", "/devices", "/models", "/drift"]
)
def test_empty_page_says_which_command_comes_next(
    open_browser: Callable[..., Watched], empty_url: str, path: str
) -> None:
    watched = open_browser(at=empty_url, viewport={"width": 390, "height": 844})
    page = watched.go(path)
    command = page.locator(".empty .command code").first.inner_text()
    assert command.startswith(("edge-fleet ", "edge-agent ", "edge-compile "))
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_what_people_have_to_sign_stands_above_all_else(
    open_browser: Callable[..., Watched], fresh: Scene
) -> None:
    fresh.manager.do(lambda: None)
    fresh.manager.reminders.due = [
        Reminder(
            text=f"{text}: root", expires_s=0.0, left_days=days, command="edge-fleet key renew"
        )
        for text, days in (("expired on 2026-01-01", -3.0), ("55 days left", 55.0))
    ]
    page = open_browser(at=fresh.url, viewport={"width": 390, "height": 844}).go("/")
    section = page.locator("section.card").first
    assert section.get_by_role("heading").inner_text() == "To be signed by people"
    assert section.locator(".calm").all_inner_texts() == [
        "Expired on 2026-01-01: root",
        "55 days left: root",
    ]
    assert violations(page) == []
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_every_dialog_is_clean(watched: Watched, scene: Scene) -> None:
    page = watched.go(f"/rollouts/{scene.running}")
    for name in ("pause", "promote", "abort", "rollback", "help"):
        page.locator(f"[data-dialog={name}]").click()
        assert page.locator(f"#d-{name}").is_visible()
        assert violations(page) == []
        page.keyboard.press("Escape")
    assert watched.troubles == []


def test_motion_stops_where_it_is_not_wanted(open_browser: Callable[..., Watched]) -> None:
    page = open_browser(reduced_motion="reduce").go("/")
    page.evaluate("document.getElementById('live').dataset.live = 'reconnecting'")
    dot = page.locator(".live-dot")
    assert dot.evaluate("dot => getComputedStyle(dot).animationName") == "none"


def test_chart_is_drawn_and_told_in_words(watched: Watched) -> None:
    page = watched.go(f"/devices/{DARK}")
    chart = page.locator(".chart").first
    assert chart.locator("canvas").count() == 1
    assert "median" in (chart.get_attribute("aria-label") or "")


def test_heat_map_leads_to_both_distributions(watched: Watched) -> None:
    page = watched.go("/drift")
    assert page.locator("#h-feature").inner_text().startswith(("brightness", "contrast"))
    page.get_by_role("link", name=f"{DARK}, confidence").click()
    page.wait_for_url("**/drift?device=*")
    assert page.locator("#h-feature").inner_text().startswith(f"confidence on {DARK}")
    assert page.locator(".histogram .ref").count() == page.locator(".histogram .obs").count() == 16


def test_drift_alarm_is_shown_with_its_onset(watched: Watched) -> None:
    alarm = watched.go("/drift").locator(".alarm").first.inner_text()
    assert DARK in alarm
    assert "began about" in alarm
    assert "26 s later" in alarm
