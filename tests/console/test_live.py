"""A page that is open: what changes, what stays, and what it says when it hears nothing."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import expect

from tests.console.conftest import Watched, serve
from tests.console.scene import Scene

Open = Callable[..., Watched]


def test_change_elsewhere_appears_and_is_announced_once(open_browser: Open, fresh: Scene) -> None:
    watched = open_browser(at=fresh.url)
    page = watched.go(f"/rollouts/{fresh.running}")
    announce = page.locator("#announce")
    expect(announce).to_have_text("")
    fresh.service.pause(fresh.running, who="ann", reason="lunch")
    expect(page.locator(".verdict")).to_have_text("Paused by ann: lunch")
    expect(announce).to_have_text(f"Rollout {fresh.running} is paused. Paused by ann: lunch")
    expect(page.locator("#announce[aria-live=polite]")).to_have_count(1)
    assert page.locator("#view [aria-live]").count() == 0
    assert watched.troubles == []


def test_overview_follows_devices_and_rollouts(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go("/")
    expect(page.locator(".lede")).to_contain_text("1.3.0 running")
    fresh.service.abort(fresh.running, who="ann", reason="no")
    expect(page.locator(".lede")).not_to_contain_text("running")
    expect(page.locator(".rollout-row .badge").first).to_have_text("aborted")


def test_update_keeps_what_the_reader_did(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go(f"/rollouts/{fresh.running}")
    page.locator("[data-filter]").fill("cam-05")
    page.locator("#view details summary").first.click()
    page.locator(".controls [data-dialog=abort]").click()
    page.locator("#d-abort").get_by_label("Reason").fill("half a sent")
    fresh.service.pause(fresh.running, who="ann", reason="meanwhile")
    expect(page.locator(".verdict")).to_contain_text("meanwhile")
    expect(page.locator("#d-abort").get_by_label("Reason")).to_have_value("half a sent")
    page.keyboard.press("Escape")
    expect(page.locator("[data-filter]")).to_have_value("cam-05")
    expect(page.locator("[data-rows] > tr:visible")).to_have_count(1)
    assert page.locator("#view details").first.get_attribute("open") is not None


def test_page_says_since_when_it_is_stale_and_comes_back(open_browser: Open, fresh: Scene) -> None:
    watched = open_browser(at="")
    server = serve(fresh.service)
    watched._url = server.url
    page = watched.go(f"/rollouts/{fresh.running}")
    page.wait_for_function("asOf !== ''")
    server.stop()
    expect(page.locator("#live[data-live=reconnecting]")).to_be_visible(timeout=10_000)
    expect(page.locator("#live")).to_contain_text("Stale since", timeout=25_000)
    expect(page.locator("#announce")).to_contain_text("Stale since")
    expect(page.locator(".controls button").first).to_be_disabled()
    again = serve(fresh.service, server.port)
    try:
        # Another run has another token, so the page loads itself anew.
        expect(page.locator("#live[data-live=live]")).to_be_visible(timeout=15_000)
        expect(page.locator(".controls button").first).to_be_enabled()
        page.locator(".controls [data-dialog=pause]").click()
        page.locator("#d-pause").get_by_role("button", name="Pause").click()
        expect(page.locator("h1 .badge")).to_have_text("paused")
    finally:
        again.stop()


def test_streams_end_when_the_manager_stops(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go("/devices")
    fresh.manager.feed.close()
    expect(page.locator("#live[data-live=live]")).to_have_count(0, timeout=10_000)
