"""The settings that a fleet may change, on this agent: its own values, and what each one moves."""

from __future__ import annotations

import logging
from collections.abc import Callable

from edge_agent.config import AgentConfig
from edge_agent.infer.recorder import Recorder
from edge_agent.transfer.budget import ByteBudget
from edge_agent.update.readiness import DeviceReadiness
from edge_contract.configuration import Value

_LOGGER = "edge_agent"


def own_settings(config: AgentConfig) -> dict[str, Value]:
    """What the device's own file, defaults and command line say.

    A link that is not metered has no budget, and so none that could be stricter than the fleet's.
    """
    level = logging.getLogger(_LOGGER).getEffectiveLevel()
    own: dict[str, Value] = {
        "log.level": logging.getLevelName(level).lower(),
        "telemetry.window_s": config.telemetry.window_s,
        "drift.window_s": config.drift.window_s,
        "update.temperature_max_c": config.update.temperature_max_c,
    }
    if config.link.metered:
        own["link.budget_mb_per_day"] = config.link.budget_mb_per_day
    return own


def setters(
    recorder: Recorder, budget: ByteBudget, readiness: DeviceReadiness
) -> dict[str, Callable[[Value], None]]:
    """What makes each setting's value count, on the running agent."""

    def log_level(value: Value) -> None:
        logging.getLogger(_LOGGER).setLevel(str(value).upper())

    def telemetry_window(value: Value) -> None:
        recorder.window_s = float(value)

    def drift_window(value: Value) -> None:
        recorder.drift_window_s = float(value)

    def day_budget(value: Value) -> None:
        if budget.metered:  # whether a link is metered is known to the device alone
            budget.limit_bytes = int(float(value) * 1e6)

    def temperature(value: Value) -> None:
        readiness.temperature_max_c = float(value)

    return {
        "log.level": log_level,
        "telemetry.window_s": telemetry_window,
        "drift.window_s": drift_window,
        "link.budget_mb_per_day": day_budget,
        "update.temperature_max_c": temperature,
    }
