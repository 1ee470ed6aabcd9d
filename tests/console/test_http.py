"""What the console answers and refuses, below the browser."""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import click
import httpx
import pytest

import compiler.cli
import edge_agent.cli
import fleet.cli
import fleet.console
from tests.console.scene import DARK, NIGHT, Scene
from tests.console.test_pages import PAGES

STATIC = Path(fleet.console.__file__).parent / "static"


@pytest.fixture
def client(url: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url) as made:
        yield made


def token_of(client: httpx.Client) -> dict[str, str]:
    """What pages put into a header of every order."""
    found = re.search(r'"(x-wherry-console)": "([^"]+)"', client.get("/").text)
    assert found
    return {found[1]: found[2]}


@pytest.mark.parametrize("path", PAGES)
def test_page_has_a_strict_policy_and_nothing_inline(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "http" not in policy
    assert answer.headers["cache-control"] == "no-store"
    assert re.findall(r"<script(?![^>]* src=)", answer.text) == []
    assert re.findall(r"<style|\sstyle=|\son[a-z]+=", answer.text) == []
    assert re.findall(r'(?:src|href)="(?!/|#)', answer.text) == []


def test_pages_tell_what_waits_for_a_window_and_what_is_wanted_of_settings(
    client: httpx.Client, scene: Scene
) -> None:
    page = unescape(client.get(f"/rollouts/{scene.running}").text)
    assert f"waits: the order's window is {NIGHT} UTC" in page
    assert f"<dd>{NIGHT} UTC, " in page
    assert f"--window {NIGHT}" in page
    form = unescape(client.get("/rollouts/new", params={"window": NIGHT}).text)
    assert f"Devices install only {NIGHT} UTC" in form
    assert "is empty" in unescape(client.get("/rollouts/new?window=01:00-01:00").text)
    device = re.sub(r"<[^>]+>|\s+", " ", client.get(f"/devices/{DARK}").text.replace("<wbr>", ""))
    assert "link.budget_mb_per_day 5.0 1.0 its own limit is stricter" in re.sub(" +", " ", device)
    assert "Refused: it is for another device" in device


def test_vendored_assets_are_the_pinned_ones() -> None:
    vendor = STATIC / "vendor"
    lines = (vendor / "SHA256SUMS").read_text().split("\n")
    pinned = dict(reversed(line.split("  ")) for line in lines if line)
    there = {path.name for path in vendor.iterdir()} - {"SHA256SUMS", "README.md"}
    assert set(pinned) == there
    for name, digest in pinned.items():
        assert hashlib.sha256((vendor / name).read_bytes()).hexdigest() == digest, name
        assert name in (vendor / "README.md").read_text()


def test_own_scripts_stay_small() -> None:
    lines = sum(len(path.read_text().splitlines()) for path in STATIC.glob("*.js"))
    assert lines < 300


@pytest.mark.parametrize("headers", [{}, {"x-wherry-console": "guessed"}])
def test_order_without_the_pages_token_is_refused(
    client: httpx.Client, scene: Scene, headers: dict[str, str]
) -> None:
    before = scene.service.rollout(scene.running).rollout.status
    for path in (f"/rollouts/{scene.running}/pause", "/rollouts"):
        answer = client.post(path, headers=headers, data={"reason": "forged"})
        assert answer.status_code == 403
        assert answer.headers["hx-refresh"] == "true"
    assert scene.service.rollout(scene.running).rollout.status == before


def test_order_from_another_sites_page_is_refused(client: httpx.Client, scene: Scene) -> None:
    headers = token_of(client) | {"origin": "http://evil.example"}
    answer = client.post(f"/rollouts/{scene.running}/pause", headers=headers)
    assert answer.status_code == 403


def test_rebound_host_name_is_refused(client: httpx.Client) -> None:
    for path in ("/", "/live/", "/static/console.js"):
        assert client.get(path, headers={"host": "evil.example"}).status_code == 403


@pytest.mark.parametrize("path", ["/rollouts/nope", "/devices/nope", "/nope", "/a/b/c"])
def test_missing_page_is_told_in_words(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 404
    assert "Not found" in answer.text
    assert "content-security-policy" in answer.headers


def test_unknown_command_is_refused(client: httpx.Client, scene: Scene) -> None:
    path = f"/rollouts/{scene.running}/explode"
    assert client.post(path, headers=token_of(client)).status_code in (404, 405)


def test_names_from_devices_are_text_and_never_markup(client: httpx.Client) -> None:
    answer = client.get("/devices", params={"q": "<script>alert(1)</script>"})
    assert "<script>alert" not in answer.text
    assert "&lt;script&gt;alert" in answer.text


def test_stream_of_an_earlier_run_asks_its_page_to_load_again(client: httpx.Client) -> None:
    with client.stream("GET", "/live/devices", params={"run": "before"}) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "event: reload" in "".join(answer.iter_text())


def test_filter_and_state_narrow_the_table(client: httpx.Client) -> None:
    def devices(**query: str) -> list[str]:
        return re.findall(r'id="device-([^"]+)"', client.get("/devices", params=query).text)

    assert len(devices()) == 12
    assert devices(q="jetson updating") == ["cam-08"]
    assert devices(state="offline") == ["cam-09"]
    assert devices(state="drift") == [DARK]
    assert set(devices(state="stale")) == {"cam-09", "cam-12"}
    assert devices(q="nothing like it") == []


def test_every_command_shown_is_one_that_the_tools_take(client: httpx.Client) -> None:
    shown = set()
    for path in PAGES:
        shown |= {
            unescape(text) for text in re.findall(r'data-copy="([^"]+)"', client.get(path).text)
        }
    assert any("rollout start" in command for command in shown)
    assert any("rollout abort" in command for command in shown)
    for command in shown:
        parse(shlex.split(command))


def parse(words: list[str]) -> None:
    """Take a command line apart as the tool would, and run nothing."""
    tool, *rest = words
    if tool == "edge-agent":
        edge_agent.cli.build_parser().parse_args(rest)
        return
    command: click.Command = {"edge-fleet": fleet.cli.main, "edge-compile": compiler.cli.main}[tool]
    context = click.Context(command)
    while isinstance(command, click.Group):
        _, found, rest = command.resolve_command(context, rest)
        assert found is not None
        command = found
    command.make_context(tool, rest)
