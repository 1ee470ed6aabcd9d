"""The versions that the simulated fleet has, and the short words of the tests that install them."""

from __future__ import annotations

from collections.abc import Callable

from edge_agent.update.events import Ordered
from edge_agent.update.journal import read_journal
from edge_agent.update.state import Stage
from tests.update.bundles import Version, make_version
from tests.update.device import Device

V1, V2, V3 = make_version("1.0.0"), make_version("2.0.0"), make_version("3.0.0")
WRONG = make_version("2.1.0", "wrong")
SLOW = make_version("2.2.0", "slow")
DIES = make_version("2.3.0", "dies")
UNLOADABLE = make_version("2.4.0", "unloadable")
FLEET = {v.digest: v for v in (V1, V2, V3, WRONG, SLOW, DIES, UNLOADABLE)}

Start = Callable[..., Device]
EARLY = [
    Stage.PRE_FETCH, Stage.FETCHING, Stage.PRE_INSTALL, Stage.STAGING, Stage.SELF_TEST,
    Stage.POST_INSTALL,
]  # fmt: skip
LATE = [Stage.SWITCHING, Stage.TRIAL, Stage.HEALTH]


def give(device: Device, version: Version, seq: int, *, deadline_ts: float = 0.0) -> Device:
    device.manager.handle(Ordered(version.order(seq, deadline_ts=deadline_ts)))
    return device


def facts(device: Device, digest: str) -> list[tuple[str, str]]:
    entries = read_journal(device.state_dir / "update" / "journal")
    return [(f.what, f.slot) for e in entries for f in e.facts if f.digest == digest]
