"""Settings that come from afar: kept before they count, across restarts, cuts and damage."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import pytest

import edge_agent.trust.configuration
from edge_agent.remote_config import AGAIN_S, FORBIDDEN, GRACE_S, RemoteConfig
from edge_agent.trust.configuration import KeptConfiguration
from edge_contract.configuration import Value
from edge_contract.errors import TrustError

OWN: dict[str, Value] = {
    "log.level": "info",
    "telemetry.window_s": 300.0,
    "drift.window_s": 3600.0,
    "link.budget_mb_per_day": 1.0,
    "update.temperature_max_c": 85.0,
}


class Device:
    """What ``RemoteConfig`` moves, and what it says. ``envelope`` N stands for number N."""

    def __init__(self, path: Path, *, allowed: bool = True) -> None:
        self.path = path
        self.applied: dict[str, Value] = dict(OWN)
        self.told: list[tuple[str, str]] = []
        self.refusal = ""
        self.settings: dict[str, Value] = {}
        self.allowed = allowed
        self.changes = 0
        self.remote = self.boot()

    def boot(self) -> RemoteConfig:
        """A restart: what was applied is gone, and the file is what there is."""
        self.applied = dict(OWN)
        remote = RemoteConfig(
            self.path / "configuration.json",
            OWN,
            {name: self._setter(name) for name in OWN},
            allowed=self.allowed,
            accept=self._accept,
            tell=lambda name, _, text: self.told.append((name, text)),
            changed=self._changed,
        )
        remote.start()
        self.remote = remote
        return remote

    def gets(self, seq: int, now_s: float = 0.0, **settings: Value) -> None:
        """A configuration arrives, and its time of grace passes."""
        self.settings = {name.replace("__", "."): value for name, value in settings.items()}
        self.remote.received(str(seq).encode(), now_s)
        self.remote.tick(now_s)
        self.remote.tick(now_s + GRACE_S)

    def _accept(self, envelope: bytes, last: KeptConfiguration | None) -> KeptConfiguration:
        seq = int(envelope)
        if last is not None and seq == last.seq:
            return last
        if self.refusal or (last is not None and seq < last.seq):
            raise TrustError(self.refusal or "replay")
        return KeptConfiguration(1, seq, str(seq), self.settings)

    def _setter(self, name: str) -> Any:
        return lambda value: self.applied.__setitem__(name, value)

    def _changed(self) -> None:
        self.changes += 1


def test_what_is_taken_counts_at_once_and_after_a_restart_and_its_repeat_is_no_news(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path)
    device.gets(1, telemetry__window_s=5.0, log__level="debug")
    assert device.applied == {**OWN, "telemetry.window_s": 5.0, "log.level": "debug"}
    ((name, text),) = device.told
    assert (name, text) == (
        "configuration",
        "configuration 1.1 is in force: log.level info -> debug, telemetry.window_s 300.0 -> 5.0",
    )
    device.boot()
    assert device.applied["telemetry.window_s"] == 5.0
    device.gets(1)
    assert len(device.told) == 1
    assert device.remote.facts()["config_seq"] == 1


def test_a_setting_that_is_wanted_no_more_goes_back_to_the_devices_own(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.gets(1, telemetry__window_s=5.0)
    device.gets(2)
    assert device.applied == OWN
    assert [row["from"] for row in device.remote.status()] == ["device"] * len(OWN)


def test_an_older_one_cannot_come_back_after_a_restart(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.gets(2, telemetry__window_s=5.0)
    device.boot()
    device.gets(1, telemetry__window_s=9.0)
    assert device.applied["telemetry.window_s"] == 5.0
    assert device.remote.facts()["config_refused"] == "replay"
    device.gets(3, telemetry__window_s=6.0)
    assert device.remote.facts()["config_refused"] == ""


def test_nothing_counts_that_the_disk_did_not_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(tmp_path)

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, "no space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(edge_agent.trust.configuration, "write_durably", full)
        with pytest.raises(OSError, match="no space"):
            device.gets(1, telemetry__window_s=5.0)
        assert device.applied == OWN
        assert device.remote.facts()["config_seq"] == 0
    device.remote.tick(1.0)  # there is space again
    assert device.applied["telemetry.window_s"] == 5.0


def test_a_refusal_waits_for_metadata_is_told_once_and_looked_at_again(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.refusal = "no metadata yet"
    device.remote.received(b"1", 0.0)
    device.remote.tick(GRACE_S - 1)
    assert device.told == []
    device.remote.tick(GRACE_S)
    device.remote.tick(GRACE_S + AGAIN_S)
    device.gets(1, now_s=200.0)
    assert device.told == [("configuration-refused", "no metadata yet")]
    device.refusal = ""
    device.remote.tick(200.0 + GRACE_S + AGAIN_S)
    assert device.remote.facts()["config_seq"] == 1


def test_a_stricter_value_of_the_device_holds_and_status_says_whose_it_is(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.gets(1, link__budget_mb_per_day=5.0, update__temperature_max_c=70.0)
    assert device.applied["link.budget_mb_per_day"] == 1.0
    assert device.applied["update.temperature_max_c"] == 70.0
    rows = {row["name"]: row for row in device.remote.status()}
    assert rows["link.budget_mb_per_day"]["from"] == "device, stricter than the fleet's"
    assert rows["link.budget_mb_per_day"]["wanted"] == 5.0
    assert rows["update.temperature_max_c"]["from"] == "fleet"
    assert rows["log.level"] == {
        "name": "log.level",
        "value": "info",
        "from": "device",
        "wanted": None,
    }


def test_where_the_devices_own_file_forbids_it_nothing_counts_and_the_fleet_hears_why(
    tmp_path: Path,
) -> None:
    device = Device(tmp_path)
    device.gets(1, telemetry__window_s=5.0)
    device.allowed = False
    device.boot()
    assert device.applied == OWN
    assert device.remote.facts()["config_refused"] == FORBIDDEN
    device.gets(2, telemetry__window_s=6.0)
    assert device.applied == OWN
    device.allowed = True
    device.boot()
    assert device.applied["telemetry.window_s"] == 5.0


@pytest.mark.parametrize("data", [b"", b"{", b'{"epoch":1,"seq":2}', b"\xff" * 40])
def test_a_damaged_file_lets_no_older_one_in_and_stops_nothing(data: bytes, tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.gets(2, telemetry__window_s=5.0)
    (tmp_path / "configuration.json").write_bytes(data)
    device.told.clear()
    device.boot()
    assert device.applied == OWN
    assert device.told[0][0] == "configuration-damaged"
    device.gets(1, telemetry__window_s=9.0)
    assert device.applied == OWN
    assert (tmp_path / "configuration.json").read_bytes() == data
    (tmp_path / "configuration.json").unlink()
    device.boot()
    device.gets(3, telemetry__window_s=6.0)
    assert device.applied["telemetry.window_s"] == 6.0


def test_an_older_release_leaves_out_what_it_does_not_know(tmp_path: Path) -> None:
    (tmp_path / "configuration.json").write_bytes(
        b'{"schema":1,"epoch":1,"seq":4,"document":"d","settings":'
        b'{"log.colour":"red","drift.window_s":0.0,"telemetry.window_s":5.0}}'
    )
    device = Device(tmp_path)
    assert device.applied == {**OWN, "telemetry.window_s": 5.0}
    assert device.remote.facts()["config_seq"] == 4
