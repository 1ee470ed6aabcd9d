"""A maintenance window: when, in the day, an update may be installed. Times are UTC (ADR 0028)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from edge_contract.errors import ContractError

_FORM = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")
_DAY_S = 86_400


def check_window(text: str, *, what: str) -> str:
    """Require "" (always) or ``HH:MM-HH:MM`` in UTC; one that passes midnight is fine.

    Raises:
        ContractError: malformed, or empty (both ends the same): it must never read as "always".
    """
    if text:
        _bounds(text, what)
    return text


def is_open(text: str, present_s: float) -> bool:
    """Whether ``present_s`` (unix seconds) lies in the window; the end does not belong to it."""
    if not text:
        return True
    begin_s, end_s = _bounds(text, "window")
    day_s = present_s % _DAY_S
    if begin_s < end_s:
        return begin_s <= day_s < end_s
    return day_s >= begin_s or day_s < end_s


def opens_at_s(windows: Iterable[str], present_s: float) -> float | None:
    """When all of ``windows`` are open next (unix seconds): now, where they are; None for never."""
    asked = [text for text in windows if text]
    at_s = present_s
    while at_s <= present_s + 2 * _DAY_S:
        shut = [text for text in asked if not is_open(text, at_s)]
        if not shut:
            return at_s
        # None of those can be open before it begins, so all of them cannot be earlier either.
        at_s = max(_next_begin_s(text, at_s) for text in shut)
    return None


def open_for_s(text: str, since_s: float, until_s: float) -> float:
    """For how many of the seconds between two unix times the window was open."""
    if not text:
        return until_s - since_s
    return _open_since_1970_s(text, until_s) - _open_since_1970_s(text, since_s)


def _open_since_1970_s(text: str, at_s: float) -> float:
    begin_s, end_s = _bounds(text, "window")
    days, day_s = divmod(at_s, _DAY_S)
    if begin_s < end_s:
        return days * (end_s - begin_s) + min(max(day_s - begin_s, 0), end_s - begin_s)
    return days * (_DAY_S - begin_s + end_s) + min(day_s, end_s) + max(day_s - begin_s, 0)


def _next_begin_s(text: str, after_s: float) -> float:
    begin_s, _ = _bounds(text, "window")
    begins_s = after_s - after_s % _DAY_S + begin_s
    return begins_s if begins_s > after_s else begins_s + _DAY_S


def _bounds(text: str, what: str) -> tuple[int, int]:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ContractError(f'{what}: expected "HH:MM-HH:MM" in UTC or nothing, got {text[:40]!r}')
    begin_h, begin_min, end_h, end_min = map(int, found.groups())
    begin_s, end_s = begin_h * 3600 + begin_min * 60, end_h * 3600 + end_min * 60
    if begin_s == end_s:
        raise ContractError(f"{what}: {text} is empty; leave it out for always")
    return begin_s, end_s
