"""What the page of a device says of its two slots."""

from __future__ import annotations

from typing import Any

import msgspec

from fleet.cli.fleet_views import _runs
from fleet.console import words
from fleet.console.device_pages import _chart, slots
from fleet.views.device import DeviceDetail, DeviceView
from tests.console.scene import Scene

OLD, NEW = "sha256:" + "0" * 64, "sha256:" + "1" * 64
VERSIONS = {OLD: "1.2.0", NEW: "1.3.0"}


def view(scene: Scene, **facts: Any) -> DeviceView:
    some = scene.service.devices()[0]
    quiet = {"update_phase": "idle", "slot": "A", "digest": OLD, "version": "1.2.0"}
    return msgspec.structs.replace(some, **{**quiet, "fallback_digest": "", **facts})


def told(device: DeviceView) -> list[tuple[str, str, str, bool]]:
    return [(s.name, s.look.label, s.version, s.runs) for s in slots(device, VERSIONS)]


def test_a_version_on_trial_is_in_the_other_slot(scene: Scene) -> None:
    trial = {"update_phase": "trial", "version": "1.3.0", "desired_version": "1.3.0"}
    device = view(scene, **trial, desired_digest=NEW)
    assert told(device) == [
        ("A", "returns if it fails", "1.2.0", False),
        ("B", "on trial", "1.3.0", True),
    ]
    assert [slot.digest for slot in slots(device, VERSIONS)] == [OLD, NEW]
    assert _runs(msgspec.to_builtins(device)).endswith(
        "1.3.0 on trial; slot A keeps what ran before"
    )
    back = view(scene, **trial, slot="B")
    assert told(back)[0] == ("A", "on trial", "1.3.0", True)
    first = view(scene, **trial, slot="", digest="")
    assert told(first) == [("A", "on trial", "1.3.0", True), ("B", "stands by", "", False)]
    assert _runs(msgspec.to_builtins(first)).endswith(" 1.3.0 on trial")


def test_after_the_commit_the_slots_are_as_the_device_says(scene: Scene) -> None:
    device = view(scene, slot="B", version="1.3.0", digest=NEW, fallback_digest=OLD)
    assert told(device) == [("A", "stands by", "1.2.0", False), ("B", "runs", "1.3.0", True)]
    assert _runs(msgspec.to_builtins(device)).endswith(" 1.3.0 in slot B")
    empty = view(scene, slot="", version="", digest="")
    assert told(empty) == [("A", "stands by", "", False), ("B", "stands by", "", False)]


def test_a_unit_stays_with_its_word_when_a_name_is_broken() -> None:
    assert words.breaks("telemetry.window_s") == ["telemetry.", "window_s"]
    assert words.breaks("update.temperature_max_c") == ["update.", "temperature_", "max_c"]
    assert words.breaks("link.budget_mb_per_day") == ["link.", "budget_mb_", "per_", "day"]
    assert words.breaks("log.level") == ["log.", "level"]


def test_one_window_is_a_figure_and_no_curve(scene: Scene) -> None:
    detail = next(
        found
        for device in scene.service.devices()
        if len((found := scene.service.device(device.device)).telemetry) > 1
    )
    one: DeviceDetail = msgspec.structs.replace(detail, telemetry=detail.telemetry[:1])
    chart = _chart(one, "Latency of inference", "ms", {"p95": [0.4]})
    assert (chart.series, chart.text) == ("", "p95: 0.4 ms in the only window")
