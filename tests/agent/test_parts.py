"""What the configuration says reaches what it configures, in an agent that is joined for real."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from edge_agent.api import Request
from edge_agent.medium_install import MediumCopied
from edge_agent.update.events import HookAnswer
from edge_agent.update.readiness import DeviceReadiness
from edge_contract.digest import digest_of
from edge_contract.health import HealthSpec
from edge_contract.media import MediaDevice
from edge_contract.messages import BlobAsk
from tests.agent.bundles import HARDWARE
from tests.agent.still_agent import StillAgent, still_agent
from tests.update.bundles import make_version

LAX = HealthSpec(
    trial_s=0.1,
    frames_min=1,
    latency_ratio_max=1e6,
    latency_p95_max_ms=1e9,
    errors_share_max=0.99,
    restarts_max=99,
    deadline_s=1e6,
)
STRICT = {
    "trial_s": 50.0,
    "frames_min": 500,
    "latency_ratio_max": 1.5,
    "latency_p95_max_ms": 40.0,
    "errors_share_max": 0.001,
    "restarts_max": 0,
    "deadline_s": 900.0,
}


def ordered_health(device: StillAgent) -> HealthSpec:
    order = device.agent.update.state.order
    assert order is not None, device.agent.desk.last_refusal
    return order.health


def test_an_order_s_health_spec_cannot_go_below_the_device_s_own(tmp_path: Path) -> None:
    with still_agent(tmp_path, health=STRICT) as device:
        device.connect()
        device.order(health=LAX)
        assert ordered_health(device) == HealthSpec(**STRICT)  # type: ignore[arg-type]


def test_a_medium_s_health_spec_cannot_go_below_the_device_s_own(tmp_path: Path) -> None:
    with still_agent(tmp_path, health=STRICT) as device:
        request = Request({"medium": str(tmp_path / "nothing")})
        device.parts.medium_install.begin(request)
        mine = MediaDevice(
            device="cam-1", device_key=device.identity.fingerprint, hardware=HARDWARE
        )
        media = device.publisher.media_set(devices=[mine], health=LAX)
        copied = MediumCopied(request, media, digest_of(b"{}"), None)
        device.parts.medium_install.copied(copied)
        assert ordered_health(device) == HealthSpec(**STRICT)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("sections", "answer"),
    [
        ({}, "ok"),
        ({"hooks": {}}, "ok"),
        ({"hooks": {"from_bundle": False}}, "ok"),
        ({"hooks": {"from_bundle": True}}, "refuse"),
    ],
    ids=["no section", "empty section", "off", "on"],
)
def test_a_bundle_s_hooks_are_asked_only_where_the_device_enables_them(
    sections: dict[str, object], answer: str, tmp_path: Path
) -> None:
    hook = tmp_path / "slot" / "hooks" / "v1" / "health"
    hook.parent.mkdir(parents=True)
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path / 'ran'}\necho refuse\n")
    hook.chmod(0o755)
    with still_agent(tmp_path, **sections) as device:
        facts = {"SLOT_DIR": str(tmp_path / "slot"), "STATE": "health"}
        device.parts.hooks.start_hook(7, "health", facts)
        event = device.agent._events.get(timeout=10)
        assert isinstance(event, HookAnswer)
        assert event.answer == answer
    assert (tmp_path / "ran").exists() == (answer == "refuse")


def test_the_device_s_own_conditions_are_what_an_update_waits_for(tmp_path: Path) -> None:
    order = make_version("1.0.0").order(1)
    update = {"window": "02:00-04:00", "temperature_max_c": 41.5, "space_reserve_mb": 123_456.0}

    def why(home: Path, needed_bytes: int = 0, **wish: object) -> str:
        with still_agent(home, update=wish) as device:
            readiness = device.agent.update._readiness
            assert isinstance(readiness, DeviceReadiness)
            assert readiness.temperature_max_c == wish.get("temperature_max_c", 85.0)
            assert device.agent.remote.facts()["settings"]["update.temperature_max_c"] == (
                readiness.temperature_max_c
            )
            wait = readiness.wait(order, needed_bytes)
            return wait.why if wait is not None else ""

    assert "1000000123456.0 MB are needed" in why(tmp_path / "a", 10**18, **update)
    update["space_reserve_mb"] = 0.0
    assert "the device's window is 02:00-04:00 UTC" in why(tmp_path / "b", **update)
    assert why(tmp_path / "c", space_reserve_mb=0.0) == ""


@pytest.mark.parametrize(("rate_kb_s", "most"), [(0.0, float("inf")), (20.0, 65_536.0)])
def test_the_owner_s_rate_holds_blobs_back(rate_kb_s: float, most: float, tmp_path: Path) -> None:
    with still_agent(tmp_path, transfer={"rate_max_kb_s": rate_kb_s}) as device:
        device.connect()
        pace = device.agent.fetcher.puller._pace
        assert pace.allowed_bytes(1000.0) == most
        pace.asked(65_536)
        assert pace.allowed_bytes(1001.0) == (rate_kb_s * 1e3 or most)
        # What all hear at once cannot be held back: it is not listened to.
        ask = BlobAsk(digest=digest_of(b"x"), block_bytes=4096, missing=[(0, 0)])
        assert device.agent.fleet.ask_blocks(ask)
        assert any("_fleet/blob/" in name for name in device.wire.filters) == (not rate_kb_s)


@pytest.mark.parametrize("slot", ["active", "fallback", "none"])
def test_only_a_slot_s_own_version_may_come_back_below_the_floor(
    slot: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with still_agent(tmp_path) as device:
        device.publisher.line.unrecognized_fields["x-wherry-min-release"] = "1.1.0"
        device.publisher.approve("1.1.0", b"another")
        if slot != "none":
            held = SimpleNamespace(digest=digest_of(b"{}"), version="1.0.0")
            monkeypatch.setattr(device.agent.update.slots, slot, lambda: held)
        device.connect()
        device.order(version="1.0.0")
        taken = device.agent.desk.desired_seq == 1
        assert taken == (slot != "none"), device.agent.desk.last_refusal
        assert ("downgrade" in device.agent.desk.last_refusal) == (slot == "none")
