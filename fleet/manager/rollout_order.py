"""What an operator orders: a version, waves, gates and a health spec; as data and as a command.

Light on purpose: the command line imports it to say ``--help``.
"""

from __future__ import annotations

import re
import shlex
from typing import Literal

import msgspec

from edge_contract.errors import ContractError, ExitCode
from edge_contract.health import HealthSpec
from edge_contract.window import check_window
from fleet.errors import FleetError
from fleet.rollout.gate import Gate

_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%")
_COUNT = re.compile(r"[1-9][0-9]{0,6}")


class RolloutOrder(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What to roll out, how, and under which gates.

    Attributes:
        line, version: a published bundle.
        shares: cumulative shares of the fleet, rising to 1.0; or
        counts: devices in each wave (the rest forms a last one). With neither: one device first,
            then all. ``parse_waves`` reads both from a text such as "1,100%".
        gate: what a wave must show before the next one is asked.
        health: what a trial must show on the device.
        devices: only these; None for all of the line.
        on_abort: what a gate's abort does with devices that committed: ``halt`` leaves them,
            ``return`` sends them back.
        seed: what the order of the devices is drawn from; the rollout's id when empty.
        window: ``HH:MM-HH:MM`` in UTC, on every day, in which devices may install ("" for always).

    Raises:
        FleetError: a window of another form, or an empty one.
    """

    line: str
    version: str
    shares: list[float] | None = None
    counts: list[int] | None = None
    gate: Gate = Gate()
    health: HealthSpec = HealthSpec()
    devices: list[str] | None = None
    on_abort: Literal["halt", "return"] = "halt"
    seed: str = ""
    window: str = ""

    def __post_init__(self) -> None:
        try:
            check_window(self.window, what="window")
        except ContractError as error:
            raise FleetError(
                error.message,
                hint='for instance --window 02:00-05:00, or "22:00-04:00" over midnight',
                exit_code=ExitCode.USAGE,
                docs="explanation/rollout.md",
            ) from error


def parse_waves(text: str) -> tuple[list[float] | None, list[int] | None]:
    """(shares, counts) from "1%,10%,100%" (cumulative shares) or "1,5,100%" (devices a wave, then
    all the rest).

    Raises:
        FleetError: neither form.
    """
    parts = [part.strip() for part in text.split(",")]
    percents = [_PERCENT.fullmatch(part) for part in parts]
    if all(percents):
        return [float(match[1]) / 100 for match in percents if match], None
    numbers = parts[:-1] if parts[-1] == "100%" else parts
    if all(_COUNT.fullmatch(part) for part in numbers):
        return None, [int(part) for part in numbers]
    raise FleetError(
        f'waves {text!r}: expected cumulative shares such as "1%,10%,100%", or devices a wave'
        ' and then the rest, such as "1,5,100%"',
        exit_code=ExitCode.USAGE,
        docs="explanation/rollout.md",
    )


GATE_OPTIONS: dict[str, str] = {
    "max_failures_share": "share of a wave that may fail, 0.0 to 1.0 or a percentage",
    "max_failures_count": "devices of a wave that may fail (with neither: none)",
    "min_success_count": "devices of a wave that must have committed",
    "quorum_share": "share of a wave that must have committed",
    "soak_s": "how long a device must have run it to count, such as 90 or 10m",
    "wave_deadline_s": "when a wave without its quorum pauses the rollout, such as 1h",
}
"""Field of ``Gate`` -> help text. The option is the field's name with dashes."""

HEALTH_OPTIONS: dict[str, tuple[str, str]] = {
    "trial_s": ("--trial-s", "seconds of trial on the device"),
    "frames_min": ("--frames-min", "frames that the trial must answer"),
    "latency_ratio_max": ("--latency-ratio", "p95 and median at most, over those before"),
    "latency_p95_max_ms": ("--latency-max-ms", "p95 at most, in ms"),
    "errors_share_max": ("--errors-share", "failed inferences over frames, 0 to 1"),
    "restarts_max": ("--restarts", "unexplained restarts of the agent"),
    "deadline_s": ("--trial-deadline-s", "a trial that is undecided by then has failed"),
}
"""Field of ``HealthSpec`` -> (option, help text)."""


def gate_option(field: str) -> str:
    """The option of a field of ``Gate``."""
    return "--" + field.replace("_", "-")


def command_line(order: RolloutOrder) -> str:
    """The order as a command for a terminal; settings that are the default are left out."""
    words = ["edge-fleet", "rollout", "start", order.line, order.version]
    if order.shares is not None:
        words += ["--waves", ",".join(_percent(share) for share in order.shares)]
    elif order.counts is not None:
        words += ["--waves", ",".join([*map(str, order.counts), "100%"])]
    for field in GATE_OPTIONS:
        value = getattr(order.gate, field)
        if value != getattr(Gate(), field):
            words += [gate_option(field), _percent(value) if field in _SHARES else _plain(value)]
    for field, (option, _) in HEALTH_OPTIONS.items():
        value = getattr(order.health, field)
        if value != getattr(HealthSpec(), field):
            words += [option, _plain(value)]
    if order.window:
        words += ["--window", order.window]
    if order.on_abort != "halt":
        words += ["--on-abort", order.on_abort]
    for device in order.devices or ():
        words += ["--device", device]
    if order.seed:
        words += ["--seed", order.seed]
    return shlex.join(words)


_SHARES = frozenset({"max_failures_share", "quorum_share"})


def _plain(value: float) -> str:
    """A number without an exponent or trailing zeros."""
    return f"{value:.6f}".rstrip("0").rstrip(".")


def _percent(share: float) -> str:
    return _plain(share * 100) + "%"
