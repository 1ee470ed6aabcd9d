"""Orders, from the button to the store and back into the page."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import WHO, Watched
from tests.console.scene import Scene

Open = Callable[..., Watched]


def status(scene: Scene, rollout: str = "") -> str:
    return scene.service.rollout(rollout or scene.running).rollout.status


def press(page: Page, command: str) -> Any:
    """Open a command's dialog; returns it."""
    page.locator(f".controls [data-dialog={command}]").click()
    dialog = page.locator(f"#d-{command}")
    expect(dialog).to_be_visible()
    return dialog


def test_pause_and_resume(open_browser: Open, fresh: Scene) -> None:
    watched = open_browser(at=fresh.url)
    page = watched.go(f"/rollouts/{fresh.running}")
    dialog = press(page, "pause")
    dialog.get_by_label("Reason").fill("shops are open")
    dialog.get_by_role("button", name="Pause").click()
    expect(page.locator(".verdict")).to_have_text(f"Paused by {WHO}: shops are open")
    expect(dialog).to_be_hidden()
    assert status(fresh) == "paused"
    press(page, "resume").get_by_role("button", name="Resume").click()
    expect(page.locator("h1 .badge")).to_have_text("running")
    assert status(fresh) == "running"
    assert watched.troubles == []


def test_cancel_orders_nothing(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go(f"/rollouts/{fresh.running}")
    press(page, "abort").get_by_role("button", name="Cancel").click()
    press(page, "rollback")
    page.keyboard.press("Escape")
    expect(page.locator("dialog[open]")).to_have_count(0)
    assert status(fresh) == "running"


def test_halt_wants_a_reason_and_leaves_devices_as_they_are(
    open_browser: Open, fresh: Scene
) -> None:
    page = open_browser(at=fresh.url).go(f"/rollouts/{fresh.running}")
    dialog = press(page, "abort")
    assert "Halt is not roll-back" in dialog.inner_text()
    halt = dialog.get_by_role("button", name="Halt")
    halt.click()
    expect(dialog).to_be_visible()
    dialog.get_by_label("Reason").fill(" ")
    halt.click()
    expect(dialog.locator(".problem")).to_contain_text("say why")
    assert status(fresh) == "running"
    dialog.get_by_label("Reason").fill("wrong labels")
    halt.click()
    expect(page.locator("h1 .badge")).to_have_text("aborted")
    rollout = fresh.service.rollout(fresh.running).rollout
    assert (rollout.status, rollout.committed_count) == ("aborted", 2)
    assert "wrong labels" in rollout.sentence


def test_roll_back_sends_devices_back_also_after_a_halt(open_browser: Open, fresh: Scene) -> None:
    fresh.service.abort(fresh.running, who="ann", reason="stop")
    page = open_browser(at=fresh.url).go(f"/rollouts/{fresh.running}")
    dialog = press(page, "rollback")
    assert "Roll-back is more than halt" in dialog.inner_text()
    dialog.get_by_role("button", name="Halt and roll back").click()
    expect(page.locator("h1 .badge")).to_have_text("rolling back")
    expect(page.locator(".legend").first).to_contain_text("returning")


def test_promoting_all_the_rest_wants_their_number(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go(f"/rollouts/{fresh.running}")
    dialog = press(page, "promote")
    dialog.get_by_label("Ask all the rest at once").check()
    dialog.get_by_label("type how many").fill("3")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.locator(".problem")).to_contain_text("(6)")
    dialog.get_by_label("type how many").fill("6")
    dialog.get_by_role("button", name="Promote").click()
    expect(page.locator(".wave[aria-current]")).to_contain_text("Wave 3")
    assert fresh.service.rollout(fresh.running).rollout.wave == 3


def test_refused_order_is_told_in_its_dialog(open_browser: Open, fresh: Scene) -> None:
    watched = open_browser(at=fresh.url)
    page = watched.go(f"/rollouts/{fresh.running}")
    dialog = press(page, "pause")
    fresh.service.abort(fresh.running, who="ann", reason="first")
    dialog.get_by_role("button", name="Pause").click()
    expect(dialog.locator(".problem")).to_contain_text("is aborted: expected rollback, got pause")


def test_start_shows_its_plan_and_starts_that(open_browser: Open, fresh: Scene) -> None:
    fresh.service.abort(fresh.running, who="ann", reason="make room")
    watched = open_browser(at=fresh.url)
    page = watched.go("/models")
    page.get_by_role("link", name="Roll out digits 1.2.0").click()
    plan = page.locator("#plan")
    expect(plan).to_contain_text("digits 1.2.0 to 11 devices in 2 waves")
    page.get_by_label("Waves", exact=True).fill("2,3,100%")
    expect(plan).to_contain_text("in 3 waves")
    expect(plan.locator(".command")).to_contain_text("--waves 2,3,100%")
    planned = plan.locator(".plan-waves li").first.locator("p").first.inner_text()
    plan.get_by_role("button", name="Start this rollout").click()
    expect(page.locator("#d-start")).to_contain_text("Wave 1 asks 2 devices at once")
    page.locator("#d-start").get_by_role("button", name="Start").click()
    page.wait_for_url("**/rollouts/digits-1.2.0-2")
    expect(page.locator(".wave[aria-current]")).to_contain_text("0 of 2 devices")
    detail = fresh.service.rollout("digits-1.2.0-2")
    assert detail.rollout.created_by == WHO
    assert {device.device for device in detail.devices if device.wave == 1} == set(
        planned.split(", ")
    )
    assert watched.troubles == []


def test_plan_that_would_be_another_by_now_is_not_started(open_browser: Open, fresh: Scene) -> None:
    page = open_browser(at=fresh.url).go("/rollouts/new?version=digits+1.2.0")
    page.get_by_role("button", name="Start this rollout").click()
    fresh.hold("cam-01")
    page.locator("#d-start").get_by_role("button", name="Start").click()
    expect(page.locator("#problem-start")).to_contain_text("the fleet has changed")
    assert len(fresh.service.rollouts()) == 3


@pytest.mark.parametrize(
    ("label", "text", "told"),
    [
        ("Waves", "some", "expected cumulative shares"),
        ("Failures it bears", "10 %", "expected"),
        ("Must have committed", "1", "a bare 1 might mean either"),
        ("Devices", "cam-99", "no device cam-99 is enrolled"),
    ],
)
def test_setting_that_is_not_understood_gives_no_plan(
    open_browser: Open, url: str, label: str, text: str, told: str
) -> None:
    page = open_browser(at=url).go("/rollouts/new")
    page.get_by_label(label, exact=True).fill(text)
    expect(page.locator("#plan [role=alert]")).to_contain_text(told)
    expect(page.get_by_role("button", name="Start this rollout")).to_have_count(0)
