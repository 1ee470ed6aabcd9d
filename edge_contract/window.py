"""A maintenance window: when, in the day, an update may be installed. Times are UTC."""

from __future__ import annotations

import re

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


def _bounds(text: str, what: str) -> tuple[int, int]:
    found = _FORM.fullmatch(text)
    if found is None:
        raise ContractError(f'{what}: expected "HH:MM-HH:MM" in UTC or nothing, got {text[:40]!r}')
    begin_h, begin_min, end_h, end_min = map(int, found.groups())
    begin_s, end_s = begin_h * 3600 + begin_min * 60, end_h * 3600 + end_min * 60
    if begin_s == end_s:
        raise ContractError(f"{what}: {text} is empty; leave it out for always")
    return begin_s, end_s
