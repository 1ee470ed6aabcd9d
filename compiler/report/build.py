"""Everything that ``report.json`` says of one build."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec

from compiler.proof.gate import Verdict
from compiler.report.sbom import loaded_distributions, sbom, sbom_bytes
from compiler.report.section import Section
from compiler.report.target import TargetReport
from edge_contract.model import Lineage

_SEVERITY: dict[Verdict, int] = {"pass": 0, "insufficient": 1, "fail": 2}


@dataclass(frozen=True)
class BuildReport:
    """Everything ``report.json`` says.

    bundle_digest: ``None`` where the gate was not passed and there is no bundle.
    lineage: digests, tools and options, as in the bundle.
    machine: what the figures were taken on.
    model_card: as in the bundle (Markdown).
    sections: what else there is to say of the build as a whole.
    distributions: what the build ran with, by name.
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
    model_card: str = ""
    sections: tuple[Section, ...] = ()
    distributions: Mapping[str, str] = field(default_factory=loaded_distributions)

    @property
    def verdict(self) -> Verdict:
        """The worst verdict of all targets: the gate must hold for each."""
        return max((t.gate.verdict for t in self.targets), key=lambda v: _SEVERITY[v])

    @property
    def reason(self) -> str:
        """Why: of the targets with that verdict, the one with the largest bound speaks."""
        alike = [t for t in self.targets if t.gate.verdict == self.verdict]
        target = max(alike, key=lambda t: t.gate.interval.badness)
        return (
            target.gate.reason
            if len(self.targets) == 1
            else f"{target.target}: {target.gate.reason}"
        )

    @property
    def headline(self) -> str:
        """The verdict as a sentence."""
        blamed = [t for t in self.targets if t.gate.verdict == self.verdict]
        names = " and ".join(target.target for target in blamed)
        worst = max((target.gate.interval for target in blamed), key=lambda one: one.badness)
        what = f"{self.name} {self.version}"
        if self.verdict == "pass":
            return f"{what} may ship to {names}: {worst.sentence('pass')}."
        if self.verdict == "insufficient":
            return (
                f"{what} may not ship yet: on {names} the test samples are too few to tell whether"
                f" {worst.sentence('insufficient')}."
            )
        if all(target.gate.interval.broken for target in blamed):
            return f"{what} may not ship: on {names} {worst.sentence('fail')}."
        return f"{what} may not ship: on {names} a check failed."

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
            "warnings": list(self.warnings),
            "lineage": msgspec.to_builtins(self.lineage),
            "machine": dict(self.machine),
            "command": self.command,
            "pruning": None,
            **{section.key: section.data for section in self.sections},
        }

    def json_bytes(self) -> bytes:
        """``report.json``."""
        return (json.dumps(self.as_json(), indent=2, ensure_ascii=False) + "\n").encode()

    def sbom_bytes(self) -> bytes:
        """``sbom.json``."""
        python = self.machine.get("python", "")
        return sbom_bytes(
            sbom(
                self.name,
                self.version,
                self.bundle_digest,
                self.lineage,
                self.distributions,
                python,
            )
        )
