"""The form of a new rollout: texts in, an order out; and what the plan that was shown was."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import NamedTuple

import msgspec

from edge_contract.errors import ExitCode
from edge_contract.health import HealthSpec
from fleet.console.page import Page, Place
from fleet.errors import FleetError
from fleet.rollout.gate import parse_count, parse_duration_s, parse_gate, parse_share
from fleet.service import FleetService, RolloutOrder, parse_waves
from fleet.views.rollout import PlanView

DEFAULT_WAVES = "1,100%"


class Field(NamedTuple):
    """One input: its name (the setting's own), label, default text, and what it means."""

    name: str
    label: str
    default: str
    help: str


GATE_FIELDS = (
    Field("max_failures", "Failures it bears", "0", "devices, or a share such as 10%"),
    Field("quorum_share", "Must have committed", "50%", "share of the wave; offline ones count"),
    Field("min_success_count", "At least", "1", "devices that committed"),
    Field("soak_s", "Soak", "0s", "on the new version before it counts"),
    Field("wave_deadline_s", "Deadline", "1h", "then the rollout pauses"),
)
HEALTH_FIELDS = (
    Field("trial_s", "Trial", "60s", "before a device commits"),
    Field("frames_min", "Frames", "100", "answered in the trial, at least"),
    Field(
        "latency_ratio_max",
        "Latency ratio",
        "3",
        "p95 and median over those before",
    ),
    Field("latency_p95_max_ms", "p95 limit (ms)", "10000", "where there is nothing to compare"),
    Field("errors_share_max", "Errors", "1%", "of the frames, at most"),
    Field("restarts_max", "Restarts", "1", "unexplained, at most"),
    Field("deadline_s", "Trial deadline", "10m", "undecided by then is a failure"),
)
_NAMES = (
    "version",
    "waves",
    "devices",
    "on_abort",
    "window",
    *(field.name for field in (*GATE_FIELDS, *HEALTH_FIELDS)),
)


def new_rollout_page(service: FleetService, place: Place) -> Page:
    """``/rollouts/new``: the form, and beside it the plan of what it says now."""
    versions = service.versions()
    texts = texts_of(place.query)
    if not texts["version"] and versions:
        texts["version"] = f"{versions[0].line} {versions[0].version}"
    plan: PlanView | None = None
    problem: FleetError | None = None
    if versions:
        try:
            plan = service.plan_rollout(read_order(texts), who="preview")
        except FleetError as error:
            problem = error
    return Page(
        template="new_rollout.html",
        title="New rollout",
        section="rollouts",
        says="",
        values={
            "now": service.health().now_s,
            "versions": versions,
            "texts": texts,
            "gate_fields": GATE_FIELDS,
            "health_fields": HEALTH_FIELDS,
            "plan": plan,
            "fingerprint": fingerprint(plan) if plan else "",
            "problem": problem,
        },
    )


def texts_of(form: Mapping[str, str]) -> dict[str, str]:
    """Every input's text; the default where the form has none."""
    defaults = {field.name: field.default for field in (*GATE_FIELDS, *HEALTH_FIELDS)}
    defaults |= {"waves": DEFAULT_WAVES, "on_abort": "halt"}
    return {name: form.get(name, "").strip() or defaults.get(name, "") for name in _NAMES}


def read_order(texts: Mapping[str, str]) -> RolloutOrder:
    """The order that the texts of ``texts_of`` stand for.

    Raises:
        FleetError: a text that is not understood; nothing is ever read as "off".
    """
    line, _, version = texts["version"].partition(" ")
    shares, counts = parse_waves(texts["waves"])
    bears = texts["max_failures"]
    gate: dict[str, object] = {field.name: texts[field.name] for field in GATE_FIELDS[1:]}
    if bears != "0":  # which is what a gate without either limit bears
        gate["max_failures_share" if "%" in bears or "." in bears else "max_failures_count"] = bears
    try:
        return msgspec.convert(
            {
                "line": line,
                "version": version,
                "shares": shares,
                "counts": counts,
                "gate": parse_gate(gate),
                "health": _read_health(texts),
                "devices": texts["devices"].replace(",", " ").split() or None,
                "on_abort": texts["on_abort"],
                "window": texts["window"],
            },
            RolloutOrder,
        )
    except (msgspec.ValidationError, ValueError) as error:
        raise FleetError(str(error), exit_code=ExitCode.USAGE) from error


def fingerprint(plan: PlanView) -> str:
    """Of what a plan would do: the same for the same devices in the same waves under the same
    gates, whoever makes it and when. What is offline meanwhile does not count."""
    waves = [wave.devices for wave in plan.waves]
    how = (plan.gate, plan.health, plan.on_abort, plan.window)
    said = (plan.line, plan.version, plan.digest, waves, *how)
    return hashlib.sha256(msgspec.json.encode(said)).hexdigest()


def _read_health(texts: Mapping[str, str]) -> HealthSpec:
    read: dict[str, object] = {}
    for field in HEALTH_FIELDS:
        text = texts[field.name]
        if field.name in ("trial_s", "deadline_s"):
            read[field.name] = parse_duration_s(text, field.name)
        elif field.name == "errors_share_max":
            read[field.name] = parse_share(text, field.name)
        elif field.name in ("frames_min", "restarts_max"):
            read[field.name] = parse_count(text, field.name)
        else:
            read[field.name] = _number(text, field.name)
    return msgspec.convert(read, HealthSpec)


def _number(text: str, name: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise FleetError(
            f"{name}: expected a number, got {text[:40]!r}", exit_code=ExitCode.USAGE
        ) from error
