"""``report.json`` and ``report.html``: what the build found, beside the bundle.

Times, paths and the machine stand here and only here; the bundle holds none of them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jinja2
import msgspec

from compiler.audit import LAYER_NAME, Audit
from compiler.evaluate import Comparison
from compiler.gate import GateResult, Verdict
from compiler.plan.diagnose import LayerFidelity
from compiler.plan.plan import Plan
from compiler.prune.report import PruningReport
from compiler.select import Candidate
from edge_contract.model import Lineage

_SEVERITY: dict[Verdict, int] = {"pass": 0, "insufficient": 1, "fail": 2}


@dataclass(frozen=True)
class TargetReport:
    """What was found for one target.

    layers: the plan's int8 layers, the one that hurts most first.
    bytes_float, bytes_int8: sizes of the source model's files and of the int8 model.
    """

    target: str
    title: str
    scheme: str
    gate: GateResult
    comparison: Comparison
    audit: Audit
    candidates: tuple[Candidate, ...]
    plan: Plan
    layers: tuple[LayerFidelity, ...]
    bytes_float: int
    bytes_int8: int

    def ranking(self) -> list[tuple[str, LayerFidelity]]:
        """The int8 layers under their names in the source, the one that hurts most first."""
        names = {layer.name: layer.source_name for layer in self.audit.layers}
        found = []
        for layer in self.layers:
            match = LAYER_NAME.match(layer.node)
            found.append((names.get(match.group() if match else "", layer.node), layer))
        return found

    def findings(self) -> dict[str, Any]:
        """The evidence, and what names the source's layers, which the bundle does not tell."""
        sensitivity = [
            {
                "name": name,
                "snr_db": round(layer.snr_db, 2),
                "alone_snr_db": round(layer.alone_snr_db, 2),
            }
            for name, layer in self.ranking()
        ]
        return {**self.evidence(), "sensitivity": sensitivity}

    def evidence(self) -> dict[str, Any]:
        """The part that follows from inputs, tools and options alone."""
        gate, comparison, audit = self.gate, self.comparison, self.audit
        return {
            "scheme": self.scheme,
            "verdict": gate.verdict,
            "reason": gate.reason,
            "n": gate.n,
            "flips_lost": gate.flips_lost,
            "flips_gained": gate.flips_gained,
            "max_drop_pp": gate.max_drop_pp,
            "drop_pp": _figure(gate.drop_pp),
            "drop_upper_pp": _figure(gate.drop_upper_pp),
            "drop_lower_pp": _figure(gate.drop_lower_pp),
            "samples_needed": gate.samples_needed,
            "agreement": _figure(comparison.agreement),
            "float": {"accuracy": _figure(comparison.float_accuracy)},
            "int8": {"accuracy": _figure(comparison.int8_accuracy)},
            "bytes": {"float": self.bytes_float, "int8": self.bytes_int8},
            "int8_ops": {
                "broken": [layer.source_name for layer in audit.broken(self.plan)],
                "expected": audit.expected,
                "seen": audit.seen,
                "macs_share": _figure(audit.macs_share),
                "macs": sum(layer.macs for layer in audit.layers),
                "kernels": audit.kernels,
                "left_float": [
                    {"name": layer.source_name, "op": layer.op, "macs": layer.macs}
                    for layer in audit.left_float
                ],
            },
            "recipe": self.candidates[0].recipe,
            "selection": [
                {
                    "recipe": candidate.recipe,
                    "snr_db": _figure(candidate.snr_db),
                    "simulated_snr_db": _figure(candidate.simulated_snr_db),
                    "agreement": _figure(candidate.agreement),
                }
                for candidate in self.candidates
            ],
            "plan_digest": self.plan.digest(),
            "classes": [
                {
                    "label": row.label,
                    "n": row.n,
                    "float_right": row.float_right,
                    "int8_right": row.int8_right,
                }
                for row in comparison.classes
            ],
            "flips": {"lost": list(comparison.lost), "gained": list(comparison.gained)},
        }


@dataclass(frozen=True)
class BuildReport:
    """Everything ``report.json`` says.

    bundle_digest: ``None`` where the gate was not passed and there is no bundle.
    lineage: digests, tools and options, as in the bundle.
    pruning: ``None`` where it was not asked for.
    machine: what the figures were taken on.
    """

    name: str
    version: str
    targets: tuple[TargetReport, ...]
    bundle_digest: str | None
    duration_s: float
    command: str
    machine: Mapping[str, str]
    lineage: Lineage
    warnings: tuple[str, ...]
    pruning: PruningReport | None = None

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all targets: the gate must hold for each."""
        return max((t.gate.verdict for t in self.targets), key=lambda v: _SEVERITY[v])

    @property
    def reason(self) -> str:
        """Why: of the targets with that verdict, the one with the largest bound speaks."""
        alike = [t for t in self.targets if t.gate.verdict == self.verdict]
        target = max(alike, key=lambda t: t.gate.drop_upper_pp)
        return (
            target.gate.reason
            if len(self.targets) == 1
            else f"{target.target}: {target.gate.reason}"
        )

    def as_json(self) -> dict[str, Any]:
        """Figures of the first target on top; ``targets`` holds those of every target."""
        shared = {"bundle_digest": self.bundle_digest, "duration_s": round(self.duration_s, 3)}
        first = self.targets[0].findings()
        return {
            "schema": 1,
            "name": self.name,
            "version": self.version,
            **first,
            "verdict": self.verdict,
            "reason": self.reason,
            **shared,
            "target": self.targets[0].target,
            "targets": {t.target: {**t.findings(), **shared} for t in self.targets},
            "pruning": self.pruning.findings() if self.pruning else None,
            "warnings": list(self.warnings),
            "lineage": msgspec.to_builtins(self.lineage),
            "machine": dict(self.machine),
            "command": self.command,
        }

    def json_bytes(self) -> bytes:
        """``report.json``."""
        return (json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n").encode()

    def html_bytes(self) -> bytes:
        """``report.html``: one file that needs nothing else, in light and dark."""
        environment = jinja2.Environment(
            loader=jinja2.PackageLoader("compiler", "templates"),
            autoescape=True,
            undefined=jinja2.StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        template = environment.get_template("report.html")
        return template.render(report=self, scale=_interval_scale(self.targets)).encode()

    def summary(self) -> list[str]:
        """Lines for a terminal; the last one is the verdict."""
        lines = [f"{self.name} {self.version}  {self.bundle_digest or 'no bundle'}"]
        if self.pruning:
            lines.append(f"pruned: {self.pruning.sentence()}")
        for target in self.targets:
            comparison, audit = target.comparison, target.audit
            total_macs = sum(layer.macs for layer in audit.layers)
            accuracy = (
                f"{comparison.float_accuracy:.2%} float, {comparison.int8_accuracy:.2%} int8,"
                f" {comparison.agreement:.2%} agree, n = {comparison.n}"
            )
            drop = (
                f"at most {target.gate.drop_upper_pp:.2f} pp at 95 % (limit"
                f" {target.gate.max_drop_pp:g}), {len(comparison.lost)} lost,"
                f" {len(comparison.gained)} gained"
            )
            int8 = (
                f"{audit.seen} of {audit.expected} layers, {audit.macs_share:.1%} of"
                f" {total_macs:,} MACs"
            )
            lines += [
                f"{target.target} ({target.scheme}, {target.candidates[0].recipe})",
                f"  accuracy  {accuracy}",
                f"  drop      {drop}",
                f"  int8      {int8}",
                f"  size      {target.bytes_int8:,} bytes of {target.bytes_float:,}",
            ]
        lines += [f"warning: {warning}" for warning in self.warnings]
        word = {"pass": "PASS", "fail": "FAIL", "insufficient": "FAIL (insufficient data)"}
        return [*lines, f"{word[self.verdict]}: {self.reason}"]


def _figure(value: float) -> float:
    """Ten digits: enough for every use, and the same text on every machine."""
    return float(f"{value:.10g}")


def _interval_scale(targets: tuple[TargetReport, ...]) -> dict[str, Any]:
    """Where the drop chart of the report begins and ends, in percentage points."""
    values = [0.0]
    for target in targets:
        values += [target.gate.drop_lower_pp, target.gate.drop_upper_pp, target.gate.max_drop_pp]
    low, high = min(values), max(values)
    room = 0.08 * (high - low)
    return {"low": low - room, "span": (high - low) + 2 * room}
