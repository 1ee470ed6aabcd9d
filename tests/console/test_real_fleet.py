"""The console over a manager, a broker and devices that really talk to one another."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import expect

from tests.console.conftest import Watched, serve
from tests.manager.conftest import FleetUnderTest

Open = Callable[..., Watched]


@pytest.fixture
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetUnderTest]:
    made = FleetUnderTest(tmp_path_factory.mktemp("fleet"), "mosquitto")
    made.start_manager()
    yield made
    made.close()


@pytest.mark.debian
def test_a_version_goes_from_the_form_to_devices_while_people_watch(
    open_browser: Open, fleet: FleetUnderTest
) -> None:
    server = serve(fleet.service)
    watched = open_browser(at=server.url)
    page = watched.go("/devices")
    expect(page.locator(".empty")).to_contain_text("No device yet")
    fleet.publish("1.0.0")
    first, second = fleet.enrolled("cam-1", "cam-2")
    expect(page.locator("[data-rows] > tr")).to_have_count(2)
    expect(page.locator("#device-cam-1 .badge")).to_have_text("online")
    fleet.published("1.0.0")

    watched.go("/rollouts/new")
    page.get_by_label("Waves", exact=True).fill("1,100%")
    page.get_by_label("Must have committed", exact=True).fill("100%")
    plan = page.locator("#plan")
    expect(plan.locator(".command")).to_contain_text("--quorum-share 100%")
    page.get_by_role("button", name="Start this rollout").click()
    page.locator("#d-start").get_by_role("button", name="Start").click()
    page.wait_for_url("**/rollouts/digits-1.0.0")
    asked = {device.name: device for device in (first, second)}
    one = asked[page.locator("[data-rows] > tr th").first.inner_text()]
    order = one.order()
    one.say_status("accepted", order)
    one.say_status("downloading", order)
    expect(page.locator(f"#device-{one.name} .badge")).to_have_text("downloading")
    one.install(order)
    other = second if one is first else first
    expect(page.locator(".wave").first).to_contain_text("passed")
    other.install(other.order())
    expect(page.locator("h1 .badge")).to_have_text("completed")
    expect(page.locator(".verdict")).to_contain_text("2 of 2 devices run 1.0.0")

    watched.go("/")
    expect(page.locator(".log")).to_contain_text("cam-1 enrolled")
    expect(page.locator(".log")).not_to_contain_text("cam-1 cam-1")
    one.say_event("drift", "alarm", features=["mean"], onset_ts=1.0)
    expect(page.locator(".alarm")).to_contain_text("drift happened")
    one.drop()
    expect(page.locator(".lede")).to_contain_text("1 of 2 devices online")
    assert watched.troubles == []
    assert fleet.manager is not None
    fleet.manager.feed.close()
    server.stop()
