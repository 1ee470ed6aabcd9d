"""What a model may weigh: its file, its memory, its multiply-accumulates."""

from __future__ import annotations

from dataclasses import dataclass, replace

from compiler.graph.memory import Memory
from compiler.proof.gate import Gate
from compiler.report.section import Section
from edge_contract.profile import DeviceProfile

MEMORY_SHARE = 0.25
"""Of the board's memory that a model may take where ``--max-ram-mb`` says nothing: the system,
the runtime, the frames and a second version on trial need the rest."""


@dataclass(frozen=True)
class Budgets:
    """Limits that the user named; ``None`` where there is none of that kind.

    max_size_kb: of the int8 model file, in 1,000 bytes.
    max_ram_mb: of weights and live activations together, in 1,000,000 bytes; estimated.
    max_mmacs: million multiply-accumulates a frame.
    """

    max_size_kb: float | None = None
    max_ram_mb: float | None = None
    max_mmacs: float | None = None


@dataclass(frozen=True)
class Spending:
    """One budget: what is spent of it.

    source: the option, or the profile's figure that it comes from.
    """

    name: str
    unit: str
    spent: float
    limit: float
    source: str

    @property
    def broken(self) -> bool:
        """Whether more is spent than allowed."""
        return self.spent > self.limit


def spendings(
    budgets: Budgets, memory: Memory, macs: int, profile: DeviceProfile
) -> tuple[Spending, ...]:
    """What the int8 model spends of each budget; memory always has one, from the profile."""
    board_mb = profile.memory_mb * (1 << 20) / 1e6 * MEMORY_SHARE
    ram = (budgets.max_ram_mb, "--max-ram-mb")
    if budgets.max_ram_mb is None:
        ram = (board_mb, f"{MEMORY_SHARE:.0%} of {profile.memory_mb} MB")
    found = [Spending("RAM, estimated", "MB", memory.total_bytes / 1e6, ram[0] or 0.0, ram[1])]
    for name, unit, spent, limit, option in (
        ("size", "kB", memory.weights_bytes / 1e3, budgets.max_size_kb, "--max-size-kb"),
        ("work", "MMACs", macs / 1e6, budgets.max_mmacs, "--max-mmacs"),
    ):
        if limit is not None:
            found.append(Spending(name, unit, spent, limit, option))
    return tuple(found)


def within(gate: Gate, found: tuple[Spending, ...]) -> Gate:
    """The gate, failed with a reason of its own where a budget is broken."""
    broken = [one for one in found if one.broken]
    if not broken:
        return gate
    reasons = [
        f"{one.name} {one.spent:,.4g} {one.unit} is over the budget of {one.limit:,.4g} {one.unit}"
        f" ({one.source})"
        for one in broken
    ]
    said = "; ".join(reasons)
    reason = said if gate.verdict == "pass" else f"{said}; and {gate.reason}"
    return replace(gate, verdict="fail", reason=reason, samples_needed=None)


def budgets_section(found: tuple[Spending, ...]) -> Section:
    """The budgets in the report and in the evidence."""
    return Section(
        key="budgets",
        title="Budgets",
        note="Memory is estimated: the model file and the activations alive at the worst moment.",
        data=[
            {
                "name": one.name,
                "unit": one.unit,
                "spent": float(f"{one.spent:.10g}"),
                "limit": float(f"{one.limit:.10g}"),
                "source": one.source,
                "broken": one.broken,
            }
            for one in found
        ],
        columns=("budget", "spent", "limit", "from"),
        rows=tuple(
            (
                one.name,
                f"{one.spent:,.4g} {one.unit}",
                f"{one.limit:,.4g} {one.unit}{' (broken)' if one.broken else ''}",
                one.source,
            )
            for one in found
        ),
        place="cost",
        lines=tuple(
            f"budget    {one.name} {one.spent:,.4g} of {one.limit:,.4g} {one.unit}"
            for one in found
            if one.broken or one.source.startswith("--")
        ),
        proven=True,
    )
