"""What the manager calls a device follows the agent's own words."""

from __future__ import annotations

import time

import pytest

from edge_agent.update.state import Stage
from fleet.cli.fleet_views import _when
from fleet.manager.device_views import _state_word
from fleet.store.devices import DeviceRow
from tests.device_words import said_state

ROW = DeviceRow(
    device="cam-1",
    public_key="00" * 32,
    hardware="pi",
    line="digits",
    agent_version="1",
    enrolled_at_s=0.0,
    last_seen_at_s=0.0,
    online=True,
)
HEADER = {"ts": 1.0, "seq": 1, "boot_id": "b", "model_version": "", "connection_id": "c"}
WHO = {"hardware": "pi", "device_key": "", "line": "digits"}


@pytest.mark.parametrize("stage", list(Stage))
def test_every_stage_of_an_update_is_shown_as_updating(stage: Stage) -> None:
    state = said_state(**HEADER, **WHO, update_phase=stage.value)
    assert _state_word(ROW, state) == ("online" if stage is Stage.IDLE else "updating")


def test_times_of_devices_are_utc_wherever_they_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    time.tzset()
    try:
        assert _when(3600.0) == "1970-01-01 01:00:00 UTC"
    finally:
        monkeypatch.undo()
        time.tzset()
