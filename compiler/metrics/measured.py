"""What was measured of one target's answers, in one form for every task."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.proof.evaluate import Comparison
from compiler.proof.gate import Gate


@dataclass(frozen=True)
class Figure:
    """One figure for people: ``Accuracy``, ``91.75 %``, ``float 91.88 %``."""

    title: str
    value: str
    note: str


@dataclass(frozen=True)
class Measured:
    """A verdict and the figures behind it.

    metric: ``top-1``, ``top-5``, ``error``, ``map`` or ``fidelity``.
    evidence: the keys of ``report.json`` that depend on the metric.
    comparison: right and wrong answers, where the metric knows such.
    """

    metric: str
    gate: Gate
    figures: tuple[Figure, ...]
    evidence: Mapping[str, Any]
    comparison: Comparison | None = None


def evidence_of(metric: str, gate: Gate, **known: Any) -> dict[str, Any]:
    """Every key that a report has whatever the metric, ``None`` where it does not apply."""
    return {
        "metric": metric,
        "verdict": gate.verdict,
        "reason": gate.reason,
        "n": gate.n,
        "flips_lost": None,
        "flips_gained": None,
        "max_drop_pp": None,
        "drop_pp": None,
        "drop_upper_pp": None,
        "drop_lower_pp": None,
        "samples_needed": gate.samples_needed,
        "agreement": None,
        "float": {"accuracy": None},
        "int8": {"accuracy": None},
        "classes": None,
        "flips": None,
        **known,
    }


def figure(value: float) -> float:
    """Ten digits: enough for every use, and the same text on every machine."""
    return float(f"{value:.10g}")
