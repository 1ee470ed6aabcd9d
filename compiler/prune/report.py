"""What pruning did, for people and for the record."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from compiler.prune.ask import PruneAsk
from compiler.prune.prune import GroupReport


@dataclass(frozen=True)
class PruningReport:
    """What pruning did to the model that was then quantised.

    step: kept counts are multiples of this.
    groups: channels that go together, frozen ones included.
    macs_before, macs_after: of every Conv, Gemm and MatMul for one frame.
    sparse: layers (``floatgraph``'s names) in which 2 of every 4 weights were made zero.
    snr_db, agreement: the pruned float model beside the source on the selection data.
    reason: why nothing, or less than was asked, was removed; empty otherwise.
    """

    ask: PruneAsk
    step: int
    groups: tuple[GroupReport, ...]
    macs_before: int
    macs_after: int
    sparse: tuple[str, ...]
    snr_db: float
    agreement: float | None
    reason: str

    @property
    def thinner(self) -> tuple[GroupReport, ...]:
        """Groups that lost channels."""
        return tuple(g for g in self.groups if g.channels_after < g.channels_before)

    @property
    def changed(self) -> bool:
        """Whether the model that is quantised is another one than the source."""
        return bool(self.thinner or self.sparse)

    def evidence(self) -> dict[str, Any]:
        """What follows from inputs, tools and options alone, without the source's names."""
        return {
            "asked": self.ask.words,
            "sparsity": {"asked": self.ask.sparsity, "layers": len(self.sparse)},
            "step": self.step,
            "macs": {"before": self.macs_before, "after": self.macs_after},
            "channels": {
                "before": sum(group.channels_before for group in self.groups),
                "after": sum(group.channels_after for group in self.groups),
            },
            "snr_db": float(f"{self.snr_db:.10g}"),
            "agreement": None if self.agreement is None else float(f"{self.agreement:.10g}"),
            "reason": self.reason,
        }

    def findings(self) -> dict[str, Any]:
        """The evidence, and layer by layer what was kept, with the source's names."""
        layers = [
            {
                "name": name,
                "channels_before": group.channels_before,
                "channels_after": group.channels_after,
                "error": float(f"{group.error:.6g}"),
                "frozen": group.frozen,
            }
            for group in self.groups
            for name in group.producers
        ]
        return {**self.evidence(), "layers": layers}

    def sentence(self) -> str:
        """One line for people; names nothing of the source."""
        like = f"{self.snr_db:.1f} dB to the source"
        if self.agreement is not None:
            like = f"{self.agreement:.2%} agree with the source"
        parts = []
        if self.thinner:
            gone = sum(g.channels_before - g.channels_after for g in self.thinner)
            parts.append(
                f"{gone} channels of {len(self.thinner)} groups, {self.macs_after:,} of"
                f" {self.macs_before:,} MACs left ({self.macs_after / self.macs_before:.1%})"
            )
        elif self.ask.channels:
            parts.append("no channel was removed")
        if self.ask.sparse:
            parts.append(f"2:4 zeros in {len(self.sparse)} layers")
        if self.changed:
            parts.append(f"{like} on the selection data ({self.snr_db:.1f} dB)")
        if self.reason:
            parts.append(self.reason)
        return "; ".join(parts)
