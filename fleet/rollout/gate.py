"""The safety settings of a rollout, parsed strictly: nonsense is refused, never read as "off".

The count of failures that a wave bears is ``Gate.limit``. When neither ``max_failures_share`` nor
``max_failures_count`` is given the limit is 0, so that a setting that is missing is the strictest
one. To switch the gate off on purpose, write ``max_failures_share = "100%"``.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from fractions import Fraction

import msgspec

from fleet.errors import FleetError

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
_SHARE = re.compile(r"[01]\.[0-9]{1,9}|0")
_COUNT = re.compile(r"[0-9]{1,7}")
_DURATION = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,6})?)(s|m|h|d)")
_UNIT_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DOCS = "explanation/rollout.md"


class Gate(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a wave must show before the next one may be asked. The unit is always the device.

    Attributes:
        max_failures_share: the share of a wave, 0..1, that may fail; above it the rollout aborts.
        max_failures_count: the number of devices of a wave that may fail. With both, the stricter
            one holds; with neither, none may fail.
        min_success_count: devices of a wave that must have committed, at least 1.
        quorum_share: the share of a wave, 0..1, that must have committed. Devices that are offline
            stay in this denominator: silence is not success.
        soak_s: seconds for which a device must have run the new version before it counts
            towards the quorum.
        wave_deadline_s: seconds after which a wave without its quorum pauses the rollout.

    Raises:
        FleetError: a value of the wrong type or out of its range.
    """

    max_failures_share: float | None = None
    max_failures_count: int | None = None
    min_success_count: int = 1
    quorum_share: float = 0.5
    soak_s: float = 0.0
    wave_deadline_s: float = 3600.0

    def __post_init__(self) -> None:
        if self.max_failures_share is not None:
            _check_number("max_failures_share", self.max_failures_share, 0, 1)
        if self.max_failures_count is not None:
            _check_whole("max_failures_count", self.max_failures_count, least=0)
        _check_whole("min_success_count", self.min_success_count, least=1)
        _check_number("quorum_share", self.quorum_share, 0, 1)
        _check_number("soak_s", self.soak_s, 0, math.inf)
        _check_number("wave_deadline_s", self.wave_deadline_s, 0, math.inf)
        if self.wave_deadline_s == 0:
            raise _refused("wave_deadline_s", self.wave_deadline_s, "more than 0 seconds")

    def limit(self, device_count: int) -> int:
        """The number of failures that ``device_count`` devices may show without an abort."""
        limits = []
        if self.max_failures_share is not None:
            limits.append(math.floor(_exact(self.max_failures_share) * device_count))
        if self.max_failures_count is not None:
            limits.append(self.max_failures_count)
        return min(limits, default=0)

    def needed(self, device_count: int) -> int:
        """The number of successes that a wave of ``device_count`` devices passes with."""
        if device_count == 0:
            return 0
        return max(self.min_success_count, math.ceil(_exact(self.quorum_share) * device_count))


def parse_gate(settings: Mapping[str, object]) -> Gate:
    """A ``Gate`` from a file's or a command line's settings.

    Shares are 0..1 or percentages ("10%"), durations are seconds or "90s", "10m", "2h", "1d".

    Raises:
        FleetError: an unknown setting (a mistyped one must not read as "not set"), or a value
            that is not exactly one of the forms above.
    """
    unknown = sorted(set(settings) - set(Gate.__struct_fields__))
    if unknown:
        raise FleetError(
            f"expected gate settings named {', '.join(Gate.__struct_fields__)}, "
            f"got {', '.join(map(repr, unknown))}",
            hint="correct the name; a gate setting that is not understood is never ignored",
            docs=_DOCS,
        )
    parsed: dict[str, object] = {}
    for name, value in settings.items():
        if name.endswith("_share"):
            parsed[name] = parse_share(value, name)
        elif name.endswith("_count"):
            parsed[name] = parse_count(value, name)
        else:
            parsed[name] = parse_duration_s(value, name)
    return msgspec.convert(parsed, Gate)


def parse_share(value: object, name: str) -> float:
    """A share in 0..1 from a float ("0.1" too) or a percentage ("10%").

    A bare 1 is refused, because it might mean 1 % or 100 %.

    Raises:
        FleetError: anything else.
    """
    expected = 'a share from 0.0 to 1.0 or a percentage such as "10%"'
    share = math.nan
    if isinstance(value, str):
        percent = _PERCENT.fullmatch(value)
        if percent:
            share = float(Fraction(percent[1]) / 100)
        elif _SHARE.fullmatch(value):
            share = float(value)
        elif value == "1":
            expected = '"1%" or "100%" (a bare 1 might mean either)'
    elif isinstance(value, float):
        share = value
    elif value == 0 and not isinstance(value, bool):
        share = 0.0
    elif value == 1 and not isinstance(value, bool):
        expected = '"1%" or "100%" (a bare 1 might mean either)'
    if not 0 <= share <= 1:
        raise _refused(name, value, expected)
    return share


def parse_count(value: object, name: str) -> int:
    """A whole number of devices, 0 or more, from an int or its decimal digits.

    Raises:
        FleetError: anything else.
    """
    if isinstance(value, str) and _COUNT.fullmatch(value):
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return value
    raise _refused(name, value, "a whole number of devices, 0 or more")


def parse_duration_s(value: object, name: str) -> float:
    """Seconds, 0 or more, from a number or a text with a unit: "90s", "10m", "2h", "1d".

    Raises:
        FleetError: anything else.
    """
    if isinstance(value, str):
        match = _DURATION.fullmatch(value)
        if match:
            return float(match[1]) * _UNIT_S[match[2]]
    elif (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and value >= 0
    ):
        return float(value)
    raise _refused(name, value, 'seconds as a number, or a text such as "90s", "10m", "2h", "1d"')


def _exact(share: float) -> Fraction:
    """The decimal that was written, so that 29 % of 100 devices is 29 and not 28.999…"""
    return Fraction(repr(float(share)))


def _check_number(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise _refused(name, value, "a number")
    if not low <= value <= high or not math.isfinite(value):
        span = f"from {low} to {high}" if math.isfinite(high) else f"of at least {low}"
        raise _refused(name, value, f"a finite number {span}")


def _check_whole(name: str, value: object, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise _refused(name, value, f"a whole number of at least {least}")


def _refused(name: str, value: object, expected: str) -> FleetError:
    return FleetError(
        f"gate setting {name}: expected {expected}, got {value!r}",
        hint=f"correct {name}; the rollout is not planned with a setting that is not understood",
        docs=_DOCS,
    )
