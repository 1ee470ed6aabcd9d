"""Keys that lead somewhere, and that none of them changes anything."""

from __future__ import annotations

import pytest
from playwright.sync_api import expect

from tests.console.conftest import Watched
from tests.console.scene import Scene


@pytest.mark.parametrize(
    ("key", "path"), [("r", "/rollouts"), ("d", "/devices"), ("m", "/models"), ("f", "/drift")]
)
def test_g_goes_to_pages(watched: Watched, key: str, path: str) -> None:
    page = watched.go("/")
    page.keyboard.press("g")
    page.keyboard.press(key)
    page.wait_for_url(f"**{path}")


def test_slash_filters_and_escape_leaves(watched: Watched) -> None:
    page = watched.go("/devices")
    page.keyboard.press("/")
    page.keyboard.type("jetson g r ?")
    expect(page.locator("[data-filter]")).to_have_value("jetson g r ?")
    expect(page.locator(".no-match")).to_be_visible()
    page.locator("[data-filter]").fill("jetson")
    expect(page.locator("[data-rows] > tr:visible")).to_have_count(2)
    page.keyboard.press("Enter")
    page.wait_for_url("**/devices?q=jetson")
    expect(page.locator("[data-rows] > tr")).to_have_count(2)


def test_question_mark_helps_and_keys_can_be_switched_off(watched: Watched) -> None:
    page = watched.go("/")
    page.keyboard.press("?")
    expect(page.locator("#d-help")).to_be_visible()
    page.get_by_label("Switch these shortcuts off").check()
    page.keyboard.press("Escape")
    page.keyboard.press("?")
    expect(page.locator("#d-help")).to_be_hidden()
    page = watched.go("/drift")
    page.keyboard.press("g")
    page.keyboard.press("d")
    page.wait_for_timeout(300)
    assert page.url.endswith("/drift")


def test_no_bare_key_orders_anything(watched: Watched, scene: Scene) -> None:
    page = watched.go(f"/rollouts/{scene.running}")
    for key in "abcehijklnopqstuvwxyz0123456789":
        page.keyboard.press(key)
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert scene.service.rollout(scene.running).rollout.status == "running"


def test_everything_is_reached_by_tab(watched: Watched, scene: Scene) -> None:
    page = watched.go(f"/rollouts/{scene.running}")
    page.keyboard.press("Tab")
    expect(page.locator(".skip")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    expect(page.locator(".controls button").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#d-pause")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".controls button").first).to_be_focused()
