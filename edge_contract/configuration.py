"""The settings that a fleet may change on a device, and the document that changes them.

Protected like a command: a DSSE envelope by a director key in force, for one fleet, device and
device key, in the anchored epoch, with nonce and expiry; and numbered like an order, because it is
retained (``desired/config``) for devices that are away: one whose number does not grow is refused.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import msgspec

from edge_contract.codec import decode_json
from edge_contract.command import check_nonce
from edge_contract.errors import ContractError

CONFIGURATION_TYPE = "application/vnd.wherry.configuration+json"
CONFIGURATION_LIMIT_BYTES = 8 * 1024
"""Of the envelope: every setting at its longest takes an eighth of it."""

Value = str | float


@dataclass(frozen=True)
class Setting:
    """One setting that may be changed from afar.

    means: what it does, for people; the unit stands in the name.
    low, high: bounds of a number, both allowed; without meaning for a word.
    words: what it may be, for a word; empty for a number.
    tightens: it guards the device or its owner's purse: of the fleet's value and the device's own
        the smaller one holds.
    """

    means: str
    low: float = 0.0
    high: float = 0.0
    words: tuple[str, ...] = ()
    tightens: bool = False

    @property
    def form(self) -> str:
        """What is expected, for a message."""
        if self.words:
            return f"one of {', '.join(self.words)}"
        return f"a number from {self.low:g} to {self.high:g}"

    def holds(self, value: object) -> bool:
        """Whether ``value`` is of the form."""
        if self.words:
            return value in self.words
        if not isinstance(value, int | float) or isinstance(value, bool):
            return False
        return self.low <= value <= self.high  # NaN fails both


SETTINGS: Mapping[str, Setting] = {
    "log.level": Setting(
        "how much the agent writes to its log", words=("debug", "info", "warning")
    ),
    "telemetry.window_s": Setting("seconds that one telemetry summary covers", 1.0, 86_400.0),
    "drift.window_s": Setting("seconds that one drift summary covers", 1.0, 604_800.0),
    "link.budget_mb_per_day": Setting(
        "MB that a metered link carries in a day", 0.01, 1e6, tightens=True
    ),
    "update.temperature_max_c": Setting(
        "hottest thermal zone at which an update may begin", 1.0, 150.0, tightens=True
    ),
}
"""Everything that can be changed: what to observe, how loudly, and limits that can only tighten.
Nothing of it says what runs, whom the device trusts or where it connects to."""


class Configuration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of what the fleet wants of one device. Times: unix s of the manager's clock.

    seq: strictly growing per device within an epoch, in a sequence of its own.
    nonce: 16 random bytes, hexadecimal; with it, two documents of one number are never the same.
    settings: by name; what is not named is as the device's own file has it.
    """

    schema: Literal[1] = 1
    fleet: str
    device: str
    device_key: str
    epoch: int
    seq: int
    nonce: str
    issued_at: float
    expires: float
    settings: dict[str, Value]


def decode_configuration(payload: bytes) -> Configuration:
    """Parse the payload of a verified configuration envelope.

    Raises:
        ContractError: malformed, a setting that is not known, or a value out of its bounds.
    """
    found = decode_json(
        payload, Configuration, what="configuration", limit_bytes=CONFIGURATION_LIMIT_BYTES
    )
    check_nonce(found.nonce, where="configuration.nonce")
    if not 1 <= found.seq < 1 << 53 or not 1 <= found.epoch < 1 << 53:
        raise ContractError(
            f"configuration: expected a seq and an epoch from 1, got {found.seq} and {found.epoch}"
        )
    check_settings(found.settings, what="configuration")
    return found


def check_settings(settings: Mapping[str, Value], *, what: str) -> None:
    """Whether every setting is known and within its bounds. All of them count, or none.

    Raises:
        ContractError: one is not.
    """
    for name, value in settings.items():
        setting = SETTINGS.get(name)
        if setting is None:
            raise ContractError(
                f"{what}: no setting {name[:60]!r}; there are {', '.join(SETTINGS)}"
            )
        if not setting.holds(value):
            raise ContractError(f"{what}: {name}: expected {setting.form}, got {repr(value)[:60]}")


def parse_setting(name: str, text: str) -> Value:
    """The value that ``text`` stands for.

    Raises:
        ContractError: no such setting, or not of its form.
    """
    value: Value = text
    setting = SETTINGS.get(name)
    if setting is not None and not setting.words:
        try:
            value = float(text)
        except ValueError:
            value = text
    check_settings({name: value}, what="settings")
    return value


def effective(
    own: Mapping[str, Value], wanted: Mapping[str, Value]
) -> tuple[dict[str, Value], list[str]]:
    """What holds on a device, and which of the fleet's wishes its own stricter value limits.

    Args:
        own: the device's own value of every setting that it has one of.
        wanted: the fleet's, checked.
    """
    either = {**own, **wanted}
    holds = {name: either[name] for name in SETTINGS if name in either}
    limited = []
    for name, setting in SETTINGS.items():
        mine, theirs = own.get(name), wanted.get(name)
        if setting.tightens and isinstance(mine, int | float) and isinstance(theirs, int | float):
            holds[name] = min(mine, theirs)
            if mine < theirs:
                limited.append(name)
    return holds, limited
