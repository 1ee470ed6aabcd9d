"""What a build found for one target: the evidence, and what is said beside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.metrics.measured import Measured, figure
from compiler.plan.diagnose import LayerFidelity
from compiler.plan.plan import Plan
from compiler.proof.audit import LAYER_NAME, Audit
from compiler.proof.evaluate import Comparison
from compiler.proof.gate import Gate
from compiler.proof.select import Candidate
from compiler.report.section import Section


@dataclass(frozen=True)
class TargetReport:
    """What was found for one target.

    gate: the verdict, with what audit and budgets say of it.
    measured: what was measured of the answers.
    layers: the plan's int8 layers, the one that hurts most first.
    bytes_float, bytes_int8: sizes of the source model's files and of the int8 model.
    sections: what else there is to say; see ``Section``.
    """

    target: str
    title: str
    scheme: str
    gate: Gate
    measured: Measured
    audit: Audit
    candidates: tuple[Candidate, ...]
    plan: Plan
    layers: tuple[LayerFidelity, ...]
    bytes_float: int
    bytes_int8: int
    sections: tuple[Section, ...] = ()

    @property
    def comparison(self) -> Comparison | None:
        """Right and wrong answers, where the task knows such."""
        return self.measured.comparison

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
                "cosine": round(layer.cosine, 6),
            }
            for name, layer in self.ranking()
        ]
        said = {section.key: section.data for section in self.sections}
        return {**self.evidence(), "sensitivity": sensitivity, **said}

    def evidence(self) -> dict[str, Any]:
        """The part that follows from inputs, tools and options alone."""
        gate, audit = self.gate, self.audit
        return {
            "scheme": self.scheme,
            **self.measured.evidence,
            "verdict": gate.verdict,
            "reason": gate.reason,
            "samples_needed": gate.samples_needed,
            "bytes": {"float": self.bytes_float, "int8": self.bytes_int8},
            "int8_ops": {
                "broken": [layer.source_name for layer in audit.broken(self.plan)],
                "expected": audit.expected,
                "seen": audit.seen,
                "macs_share": None if audit.uncounted else figure(audit.macs_share),
                "macs": sum(layer.macs for layer in audit.layers),
                "not_counted": [
                    {"name": one.name, "op": one.op, "holds": dict(one.holds)}
                    for one in audit.uncounted
                ],
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
                    "snr_db": figure(candidate.snr_db),
                    "simulated_snr_db": figure(candidate.simulated_snr_db),
                    "agreement": None
                    if candidate.agreement is None
                    else figure(candidate.agreement),
                }
                for candidate in self.candidates
            ],
            "plan_digest": self.plan.digest(),
            **{section.key: section.data for section in self.sections if section.proven},
        }
