"""Settings that come from afar: kept before they count, across restarts, cuts and damage."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import edge_agent.trust.configuration
from edge_agent.clock import SystemClock
from edge_agent.config import AgentConfig
from edge_agent.infer.engine import InferenceEngine
from edge_agent.infer.recorder import Recorder
from edge_agent.remote_config import AGAIN_S, FORBIDDEN, GRACE_S, RemoteConfig
from edge_agent.settings import own_settings, setters
from edge_agent.transfer.budget import ByteBudget
from edge_agent.trust.configuration import KeptConfiguration, load_configuration
from edge_agent.update.readiness import DeviceReadiness, UpdatePolicy, Wait
from edge_contract.configuration import SETTINGS, Value
from edge_contract.errors import TrustError
from edge_contract.layout import write_durably
from tests.update.bundles import make_version

OWN: dict[str, Value] = {
    "log.level": "info",
    "telemetry.window_s": 300.0,
    "drift.window_s": 3600.0,
    "link.budget_mb_per_day": 1.0,
    "update.temperature_max_c": 85.0,
}


class Device:
    """What ``RemoteConfig`` moves, and what it says. ``envelope`` N stands for number N."""

    def __init__(
        self, path: Path, *, allowed: bool = True, own: dict[str, Value] | None = None
    ) -> None:
        self.path = path
        self.own = OWN if own is None else own
        self.applied: dict[str, Value] = {}
        self.told: list[tuple[str, str]] = []
        self.refusal = ""
        self.settings: dict[str, Value] = {}
        self.allowed = allowed
        self.changes = 0
        self.remote = self.boot()

    def boot(self) -> RemoteConfig:
        """A restart: what was applied is gone, and the file is what there is."""
        self.applied = dict(self.own)
        remote = RemoteConfig(
            self.path / "configuration.json",
            self.own,
            {name: self._setter(name) for name in SETTINGS},
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

    with monkeypatch.context() as patch:
        patch.setattr(edge_agent.trust.configuration, "write_durably", _refuse)
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


def test_no_budget_of_a_link_that_is_not_metered_limits_the_fleets(tmp_path: Path) -> None:
    own = own_settings(_file())
    assert "link.budget_mb_per_day" not in own, "it has none"
    device = Device(tmp_path, own=own)
    assert "link.budget_mb_per_day" not in [row["name"] for row in device.remote.status()]
    device.gets(1, link__budget_mb_per_day=5.0)
    facts = device.remote.facts()
    assert facts["settings_limited"] == []
    assert facts["settings"]["link.budget_mb_per_day"] == 5.0, "the fleet sees that it was taken"
    assert device.told == [
        ("configuration", "configuration 1.1 is in force: link.budget_mb_per_day none -> 5.0")
    ]
    device.boot()
    device.gets(2)
    assert device.remote.facts()["settings"] == own
    metered = own_settings(_file(metered=True, budget_mb_per_day=2.0))
    assert metered["link.budget_mb_per_day"] == 2.0


def _file(**link: object) -> AgentConfig:
    return msgspec.convert(
        {
            "device": {
                "fleet": "shop",
                "id": "cam-1",
                "hardware": "x86-64",
                "line": "digits",
                "state_dir": "/state",
            },
            "trust": {"root": "root.json"},
            "source": {"kind": "directory", "path": "frames"},
            "link": link,
        },
        AgentConfig,
    )


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


@settings(deadline=None)  # every step is flushed to a real disk, which others use, too
@given(st.lists(st.one_of(st.integers(1, 6), st.sampled_from(["restart", "full", "space"]))))
def test_whatever_happens_numbers_only_grow_and_what_holds_is_what_is_kept(
    steps: list[int | str],
) -> None:
    with tempfile.TemporaryDirectory() as path, pytest.MonkeyPatch.context() as patch:
        device, newest, full = Device(Path(path)), 0, False
        for now, step in enumerate(steps):
            if step == "restart":
                device.boot()
            elif isinstance(step, str):
                full = step == "full"
                patch.setattr(
                    edge_agent.trust.configuration,
                    "write_durably",
                    _refuse if full else write_durably,
                )
            else:
                with contextlib.suppress(OSError):
                    device.gets(step, 1000.0 * now, telemetry__window_s=float(step))
                newest = newest if full else max(newest, step)
            kept = load_configuration(Path(path) / "configuration.json")
            assert (kept.seq if kept else 0) == device.remote.facts()["config_seq"] == newest
            assert device.applied["telemetry.window_s"] == (newest or 300.0)


def _refuse(path: Path, data: bytes) -> None:
    raise OSError(errno.ENOSPC, "no space left on device")


@pytest.mark.parametrize(("metered_bytes", "limit_bytes"), [(1_000_000, 250_000), (0, 0)])
def test_each_setting_moves_the_running_agent(
    metered_bytes: int, limit_bytes: int, tmp_path: Path
) -> None:
    recorder = Recorder(
        InferenceEngine(iter(()), 1.0, SystemClock()),  # type: ignore[arg-type]
        None,
        None,
        window_s=300.0,
        drift_window_s=3600.0,
        post=lambda _: None,
        clock=SystemClock(),
    )
    budget = ByteBudget(tmp_path / "budget", metered_bytes, lambda: 0.0, "boot")
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (zone / "temp").write_text("80000")
    readiness = DeviceReadiness(UpdatePolicy(), tmp_path, lambda: None, lambda: 0.0, tmp_path)
    moves = setters(recorder, budget, readiness)
    assert set(moves) == set(SETTINGS)
    logger = logging.getLogger("edge_agent")
    before = logger.level
    try:
        moves["log.level"]("warning")
        assert not logger.isEnabledFor(logging.INFO)
    finally:
        logger.setLevel(before)
    moves["telemetry.window_s"](5.0)
    moves["drift.window_s"](6.0)
    assert (recorder.window_s, recorder.drift_window_s) == (5.0, 6.0)
    moves["link.budget_mb_per_day"](0.25)
    assert budget.limit_bytes == limit_bytes
    order = make_version("1.0.0").order(1)
    assert readiness.wait(order, 0) is None
    moves["update.temperature_max_c"](70.0)
    assert readiness.wait(order, 0) == Wait("the device is at 80 °C, the limit is 70 °C")
