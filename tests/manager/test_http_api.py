"""The loopback API: shut to who has no token and to other web pages; JSON whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from fleet.manager.http_api import build_app
from fleet.manager.http_server import HttpServer, bind
from fleet.manager.state_dir import TOKEN_HEADER
from tests.manager.conftest import FleetUnderTest

TOKEN = "s3cret"
ORDER = {"line": "digits", "version": "1.0.0"}


@pytest.fixture
def client(fleet: FleetUnderTest) -> Iterator[httpx.Client]:
    """Talks to a real server over a real socket."""
    page = Route("/", lambda _: PlainTextResponse("console"))
    server = HttpServer(build_app(fleet.service, TOKEN, [page]), bind(0))
    server.start()
    with httpx.Client(
        base_url=server.url, headers={TOKEN_HEADER: TOKEN}, trust_env=False, timeout=20
    ) as client:
        yield client
    server.stop()


def test_every_question_has_an_answer(fleet: FleetUnderTest, client: httpx.Client) -> None:
    digest = fleet.publish("1.0.0")
    fleet.published("1.0.0")
    (device,) = fleet.enrolled("cam-1")
    order = {"line": "digits", "version": "1.0.0", "gate": {"quorum_share": 1.0}}
    plan = client.post("/api/v1/rollouts/plan", json={"order": order}).json()
    assert plan["eligible_count"] == 1
    assert plan["command"] == "edge-fleet rollout start digits 1.0.0 --quorum-share 100%"
    started = client.post("/api/v1/rollouts", json={"order": order, "who": "ann"})
    assert started.status_code == 201
    rollout = started.json()["id"]
    device.order()
    paused = client.post(f"/api/v1/rollouts/{rollout}/pause", json={"who": "ann", "reason": "tea"})
    assert paused.json()["status"] == "paused"
    answers = {
        path: client.get(f"/api/v1/{path}").json()
        for path in (
            *("health", "devices", "devices/cam-1", "rollouts", f"rollouts/{rollout}"),
            *("versions", "drift", "findings", "log", "log?kind=rollout&limit=1", "events"),
        )
    }
    assert answers["health"]["connected"] is True
    assert answers["devices"][0]["desired_digest"] == digest
    assert answers["devices/cam-1"]["device"]["device"] == "cam-1"
    assert answers["rollouts"][0]["commands"] == [
        "resume",
        "abort",
        "rollback",
        "promote",
        "exclude",
    ]
    assert answers[f"rollouts/{rollout}"]["log"][-1]["text"] == "Paused by ann: tea"
    assert answers["versions"][0]["hardware"] == ["generic-x86-64"]
    assert len(answers["log?kind=rollout&limit=1"]) == 1


def test_events_are_told_after_a_cursor(fleet: FleetUnderTest, client: httpx.Client) -> None:
    cursor = client.get("/api/v1/events").json()["cursor"]
    assert client.get("/api/v1/events", params={"since": cursor}).json()["changes"] == []
    fleet.enrolled("cam-1")
    answer = client.get("/api/v1/events", params={"since": cursor, "wait_s": 5}).json()
    assert any(change["subject"] == "cam-1" for change in answer["changes"])
    assert client.get("/api/v1/events", params={"since": "other-1"}).json()["reset"] is True


def test_without_the_token_nothing_is_answered(client: httpx.Client) -> None:
    for token in ("", "wrong", TOKEN + "x"):
        headers = {TOKEN_HEADER: token}
        answer = client.get("/api/v1/health", headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, 4)
        assert client.post("/api/v1/rollouts", json={}, headers=headers).status_code == 403
    assert client.get("/").text == "console"


STRANGERS = [
    {"host": "evil.example:8470"},
    {"host": "evil.example"},
    {"host": "127.0.0.1.evil.example"},
    {"host": ""},
    {"origin": "http://evil.example"},
    {"origin": "null"},
    {"origin": "https://127.0.0.1:8470"},
    {"origin": "http://127.0.0.1:9999"},
]


def test_pages_of_strangers_are_kept_out(client: httpx.Client) -> None:
    for headers in STRANGERS:
        for path in ("/api/v1/health", "/"):
            assert client.get(path, headers=headers).status_code in (400, 403), headers
    own = {"origin": str(client.base_url).rstrip("/")}
    assert client.get("/", headers=own).status_code == 200


BAD_ORDERS: list[tuple[str, dict[str, Any], int]] = [
    ("rollouts", {}, 400),
    ("rollouts", {"order": ORDER, "extra": 1}, 400),
    ("rollouts", {"order": {**ORDER, "gate": {"soak_s": "x"}}}, 400),
    ("rollouts", {"order": ORDER}, 404),
    ("rollouts/none/pause", {}, 404),
    ("rollouts/none/dance", {}, 404),
]


def test_bad_orders_are_refused_as_json(client: httpx.Client) -> None:
    for path, body, status in BAD_ORDERS:
        answer = client.post(f"/api/v1/{path}", json=body)
        assert answer.status_code == status, (path, body, answer.text)
        assert set(answer.json()) == {"error", "code", "hint", "docs"}
    assert client.post("/api/v1/rollouts", content=b"x" * 2_000_000).status_code == 400
