"""People are told of what they have to sign: in the log, on the console, and by `doctor`."""

from __future__ import annotations

import httpx
import pytest

from fleet.clock import SystemClock
from fleet.console.app import routes
from fleet.manager.broker_address import BrokerAddress
from fleet.manager.http_api import build_app
from fleet.manager.http_server import HttpServer, bind
from fleet.manager.loop import Manager
from fleet.manager.state_dir import StateDir
from fleet.service import FleetService
from fleet.store import open_store
from tests.manager.simulated_device import wait_until
from tests.manager.test_command_line import edge_fleet
from tests.trust.office import Office
from tests.trust.tuf_simulator import DAY_S, NOW_S


class OfficeClock(SystemClock):
    """The office's date."""

    def __init__(self, office: Office) -> None:
        self._office = office

    def wall_s(self) -> float:
        return self._office.now_s

    def monotonic_s(self) -> float:
        return super().monotonic_s() + self._office.now_s - NOW_S


def test_people_are_reminded_of_what_they_have_to_sign(
    office: Office, caplog: pytest.LogCaptureFixture
) -> None:
    """In the log once a day, and on the console with the next command."""
    store = open_store(office.home / "state" / "fleet.db", fleet="shop")
    manager = Manager(
        fleet="shop",
        store=store,
        repository=office.repository,
        address=BrokerAddress("127.0.0.1", 9),
        clock=OfficeClock(office),
    )
    service = FleetService(manager)
    server = HttpServer(build_app(service, "token", routes(service, who="test")), bind(0))

    def logged() -> list[str]:
        return [r.getMessage() for r in caplog.records if r.name == "fleet.manager.reminders"]

    def page() -> str:
        return httpx.get(server.url, trust_env=False).text

    manager.start()
    server.start()
    try:
        manager.do(lambda: None)
        assert not service.health().reminders
        wait_until(lambda: service.health().signed_until_s, what="for the first look")
        assert "To be signed" not in page()
        assert "<dt>Signatures</dt><dd>last for 7 d</dd>" in page(), "the timestamp's"
        office.now_s = NOW_S + 310 * DAY_S
        (reminder,) = wait_until(lambda: service.health().reminders, what="for the reminder")
        assert reminder.command == "edge-fleet key renew"
        assert "55 days left, until 2031-03-17: the signatures of" in reminder.text
        for role in ("root", "targets", "line-digits", "director"):
            assert role in reminder.text
        assert "To be signed by people" in page()
        assert 'data-copy="edge-fleet key renew"' in page()
        turns = manager.turns
        office.now_s += 3601
        wait_until(lambda: manager.turns > turns + 1)
        assert logged() == [f"{reminder.text}; next: edge-fleet key renew"]
        office.now_s += DAY_S
        wait_until(lambda: len(logged()) == 2, what="for the next day's line")
        assert "54 days left" in logged()[1]
    finally:
        manager.feed.close()
        server.stop()
        manager.stop()
        store.close()
    assert manager.failure is None


def test_doctor_reminds_where_no_manager_runs(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(SystemClock, "wall_s", lambda clock: office.now_s)
    state = office.home / "state"
    StateDir(state).prepare("shop")

    def signatures() -> tuple[bool, str, str]:
        found = edge_fleet("doctor", state=state, code=7)["checks"]
        (told,) = [check for check in found if check["check"] == "signatures"]
        return told["ok"], told["text"], told["hint"]

    assert signatures()[0]
    office.now_s = NOW_S + 310 * DAY_S
    ok, text, hint = signatures()
    assert not ok
    assert hint.startswith("edge-fleet key renew")
    assert "55 days left" in text
    office.ceremony.renew()
    office.sign("ada", "bob")
    assert signatures()[0]
