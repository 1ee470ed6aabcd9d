"""The report as people meet it: a file opened in Debian's Chromium."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser, Page

from compiler.cli import main
from tests.compiler.conftest import Small
from tests.compiler.models import frames, write_npz
from tests.console.test_pages import violations

SIZE_LIMIT_BYTES = 1_000_000


@pytest.fixture(scope="module", params=["pass", "fail"])
def built(
    request: pytest.FixtureRequest, small: Small, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A build of two schemes that passed, and one that failed with many flips and odd names."""
    out = tmp_path_factory.mktemp("page")
    words = small.arguments(out / "out", "--target", "generic-x86-64", effort="fast")
    if request.param == "fail":
        x, y = frames(80, 11)
        dark = write_npz(out / "dark.npz", x=x / 50, y=y)
        labels = out / "labels.txt"
        labels.write_text(
            "<script>alert(1)</script>\n" + "a very long name of a class " * 3 + "\nc\nd"
        )
        words = small.arguments(out / "out", calibration=dark, labels=labels, effort="fast")
    with pytest.raises(SystemExit):
        main.main(words)
    return out / "out"


class Opened:
    """A page, and what must not happen in it."""

    def __init__(self, page: Page, path: Path) -> None:
        self.page = page
        self.troubles: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.troubles.append(message.text))
        page.on("pageerror", lambda error: self.troubles.append(str(error)))
        page.on("request", lambda request: self.requests.append(request.url))
        page.goto(path.as_uri())


@pytest.fixture
def opened(browser: Browser, built: Path) -> Iterator[Opened]:
    context = browser.new_context(viewport={"width": 1280, "height": 860}, color_scheme="light")
    yield Opened(context.new_page(), built / "report.html")
    context.close()


def test_page_is_clean_in_light_and_dark_fits_390_pixels_and_asks_for_nothing(
    opened: Opened, built: Path
) -> None:
    page = opened.page
    assert violations(page) == []
    page.emulate_media(color_scheme="dark")
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    assert violations(page) == []
    assert opened.troubles == []
    assert [url for url in opened.requests if not url.startswith("data:")] == [
        (built / "report.html").as_uri()
    ]
    assert (built / "report.html").stat().st_size < SIZE_LIMIT_BYTES


def test_headings_step_down_one_at_a_time_and_every_link_leads_somewhere(opened: Opened) -> None:
    levels = opened.page.eval_on_selector_all(
        "h1, h2, h3, h4", "all => all.map(h => +h.tagName[1])"
    )
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    missing = opened.page.evaluate(
        "[...document.links].map(a => a.hash).filter(h => !document.querySelector(h))"
    )
    assert missing == []
    twice = opened.page.evaluate(
        "[...document.querySelectorAll('[id]')].map(e => e.id)"
        ".filter((id, at, all) => all.indexOf(id) !== at)"
    )
    assert twice == []


def test_the_verdict_comes_first_as_a_sentence_and_pictures_are_there(
    opened: Opened, built: Path
) -> None:
    report = json.loads((built / "report.json").read_text())
    page = opened.page
    said = page.inner_text(".sentence")
    flips = report["worst_flips"]
    assert page.locator("script").count() == 0
    drawn = page.locator(".flips img")
    if report["verdict"] == "pass":
        assert "may ship to raspberry-pi-4 and generic-x86-64" in said
    else:
        assert said.startswith("FAIL")
        assert "may not ship" in said
        assert len(flips) == drawn.count() == 20
        assert all(drawn.nth(place).evaluate("i => i.naturalWidth > 0") for place in range(20))
        assert "<script>alert(1)</script>" in page.inner_text("[aria-label^=Classes]")


def test_keyboard_reaches_every_table_that_scrolls(opened: Opened) -> None:
    opened.page.set_viewport_size({"width": 390, "height": 844})
    unreachable = opened.page.evaluate(
        "[...document.querySelectorAll('*')].filter(e => e.scrollWidth > e.clientWidth + 1"
        " && ['auto', 'scroll'].includes(getComputedStyle(e).overflowX) && e.tabIndex < 0)"
        ".map(e => e.outerHTML.slice(0, 80))"
    )
    assert unreachable == []


def test_report_json_says_where_latency_was_measured_and_what_it_does_not_decide(
    built: Path,
) -> None:
    report = json.loads((built / "report.json").read_text())
    for target in report["targets"].values():
        latency = target["latency"]
        assert latency["kind"] == "measured"
        assert latency["pairs"] >= 15
        assert 0 < latency["int8"]["p50_ms"] <= latency["int8"]["p95_ms"]
        assert latency["slower_than_float"] == bool(latency["why"])
        assert target["resources"]["kind"] == "estimated"
        assert all(0 <= one["clip_share"] <= 1 for one in target["ranges"])
        assert all(-1 <= layer["cosine"] <= 1 for layer in target["sensitivity"])
        operators = {one["op"]: one["arithmetic"] for one in target["operators"]}
        assert operators["QLinearConv"] == "int8"
        assert operators["QuantizeLinear"] == "conversion"
        changes = [cell["change"] for cell in target["confusion_change"]]
        assert sum(changes) == 0
    assert report["preprocess"]["checked"]
    bill = json.loads((built / "sbom.json").read_text())
    digest = report["bundle_digest"]
    hashes = bill["metadata"]["component"].get("hashes")
    assert (hashes and f"sha256:{hashes[0]['content']}") == digest


def test_printed_pages_are_light_and_hold_what_is_folded_on_the_screen(opened: Opened) -> None:
    opened.page.emulate_media(media="print", color_scheme="dark")
    paper = opened.page.evaluate(
        "getComputedStyle(document.querySelector('.card')).backgroundColor"
    )
    assert paper == "rgb(255, 255, 255)"
    folded = opened.page.locator("details:not([open]) p").first
    assert folded.evaluate("e => e.checkVisibility({contentVisibilityAuto: true})")
    assert np.isfinite(folded.bounding_box()["height"])  # type: ignore[index]
