"""The console's vocabulary: what a state is called, how it looks, how figures are written.

A tone is never shown by colour alone: each has an icon of its own shape, and a word beside it.
"""

from __future__ import annotations

import math
import re
from datetime import datetime, timezone
from typing import NamedTuple

from fleet.views.skew import agent_skew as agent_skew


class Look(NamedTuple):
    """How a state is shown: a word, a tone (``ok busy warn bad off held``) and an icon's name."""

    label: str
    tone: str
    icon: str


def _look(label: str, tone: str, icon: str = "") -> Look:
    return Look(label, tone, icon or tone)


DEVICE = {
    "online": _look("online", "ok"),
    "updating": _look("updating", "busy"),
    "held": _look("held by its owner", "held"),
    "offline": _look("offline", "off"),
    "revoked": _look("revoked", "bad"),
    "never_seen": _look("never seen", "off", "none"),
}
"""``DeviceView.state``, in the order of the fleet bar."""

SLOT = {
    "runs": _look("runs", "ok"),
    "trial": _look("on trial", "busy"),
    "back": _look("returns if it fails", "off", "back"),
    "by": _look("stands by", "off"),
}
"""What a slot of a device is for."""

ROLLOUT = {
    "draft": _look("draft", "off", "none"),
    "running": _look("running", "busy"),
    "paused": _look("paused", "warn", "held"),
    "aborted": _look("aborted", "bad"),
    "completed": _look("completed", "ok"),
    "rolling_back": _look("rolling back", "busy", "back"),
    "return_paused": _look("paused on the way back", "warn", "held"),
    "rolled_back": _look("rolled back", "off", "back"),
}
"""``RolloutView.status``."""

PHASE = {
    "committed": _look("on new version", "ok"),
    "trial": _look("in trial", "busy"),
    "self_test": _look("self-test", "busy"),
    "staged": _look("staged", "busy"),
    "downloading": _look("downloading", "busy"),
    "accepted": _look("accepted", "busy"),
    "asked": _look("asked", "busy"),
    "returning": _look("returning", "busy", "back"),
    "pending": _look("not asked yet", "off", "none"),
    "held": _look("held by its owner", "held"),
    "offline": _look("offline", "off"),
    "refused": _look("refused", "bad"),
    "failed": _look("failed", "bad"),
    "rolled_back": _look("rolled back", "bad", "back"),
    "return_failed": _look("failed to return", "bad"),
    "withdrawn": _look("withdrawn", "off", "none"),
    "returned": _look("returned", "off", "back"),
    "excluded": _look("excluded", "off", "none"),
    "ineligible": _look("ineligible", "off", "none"),
}
"""Where a device stands in a rollout, in the order of the device-state bar."""

WAVE = {
    "passed": _look("passed", "ok"),
    "open": _look("open", "busy"),
    "closed": _look("not asked yet", "off", "none"),
}

DRIFT = {
    "stable": _look("stable", "ok"),
    "insufficient data": _look("insufficient data", "off", "none"),
    "moderate shift": _look("moderate shift", "warn"),
    "major shift": _look("major shift", "bad"),
}
"""``FeatureDrift.verdict``, from best to worst but for "insufficient data", which says neither."""

SEVERITY = {
    "info": _look("info", "off", "dot"),
    "warning": _look("warning", "warn"),
    "alarm": _look("alarm", "bad"),
}

VERDICT = {
    "pass": _look("pass", "ok"),
    "fail": _look("fail", "bad"),
    "insufficient": _look("insufficient data", "warn"),
    "rolled_back": _look("rolled back", "off", "back"),
}
"""``RolloutView.outcome``, once there is one."""


def rollout_look(status: str, outcome: str) -> Look:
    """A pause that waits for an operator because the data did not suffice says so."""
    if status == "paused" and outcome == "insufficient":
        return _look("paused, insufficient data", "warn")
    return ROLLOUT[status]


def wave_look(status: str, state: str) -> Look:
    """The open wave of a rollout that was stopped is where it stopped."""
    if status in ("aborted", "rolling_back", "return_paused", "rolled_back"):
        if state == "open":
            return Look("stopped here", "bad", "bad")
        if state == "closed":
            return Look("never asked", "off", "none")
    return WAVE[state]


def count(number: int, noun: str, plural: str = "") -> str:
    """ "1 device", "1,200 devices"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def ago(at_s: float, now_s: float) -> str:
    """How long ago, coarsely: "just now", "40 s ago", "3 min ago", "2 h ago", "5 d ago"."""
    past_s = now_s - at_s
    if past_s < 10:
        return "just now"
    return f"{span(past_s // 10 * 10 if past_s < 120 else past_s)} ago"


def span(seconds: float) -> str:
    """A duration in one unit."""
    if seconds < 120:
        return f"{max(seconds, 0):.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"{seconds / 3600:.0f} h"
    return f"{seconds / 86_400:.0f} d"


def local(at_s: float) -> datetime:
    """A time of the manager's clock in this machine's time zone, which is the browser's too."""
    return datetime.fromtimestamp(at_s, timezone.utc).astimezone()


def moment(at_s: float, now_s: float) -> str:
    """The time of day, with the date where it is not today's."""
    at = local(at_s)
    if at.date() == local(now_s).date():
        return f"{at:%H:%M:%S}"
    return f"{at.day} {at:%b %H:%M}"


def in_full(at_s: float) -> str:
    """For tooltips: date, time and zone."""
    return local(at_s).isoformat(sep=" ", timespec="seconds")


def iso(at_s: float) -> str:
    """For ``<time datetime>``."""
    return datetime.fromtimestamp(at_s, timezone.utc).isoformat(timespec="seconds")


def size(size_bytes: float) -> str:
    """Bytes in decimal units, as disks and data plans count: "310 B", "42.0 kB", "1.3 MB"."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000 or unit == "GB":
            break
        size_bytes /= 1000
    return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"


def ms(latency_ms: float | None) -> str:
    """A latency with about three digits."""
    if latency_ms is None:
        return "–"
    if latency_ms < 10:
        return f"{latency_ms:.2f} ms"
    return f"{latency_ms:.1f} ms" if latency_ms < 100 else f"{latency_ms:,.0f} ms"


def figure(number: float) -> str:
    """A number of any size with about three digits."""
    if not math.isfinite(number):
        return "–"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.3g}"


def short(digest: str) -> str:
    """The first twelve hex digits of a digest."""
    return digest.removeprefix("sha256:")[:12]


def share(part: float) -> str:
    """0..1 as a percentage."""
    return f"{part:.1%}" if part < 0.1 else f"{part:.0%}"


def breaks(name: str) -> list[str]:
    """The parts of a setting's name between which a line may end; a unit stays with its word."""
    return re.findall(r"[^._]+(?:_[^._]{1,2}(?![^._]))*[._]?", name)
