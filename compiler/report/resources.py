"""Size, memory and arithmetic of the model, beside what the board has."""

from __future__ import annotations

from compiler.graph.memory import Memory
from compiler.report.section import Section
from compiler.report.target import TargetReport
from edge_contract.profile import DeviceProfile


def resources_section(
    report: TargetReport, floating: Memory, int8: Memory, profile: DeviceProfile
) -> Section:
    """Float beside int8; memory is an estimate and says so."""
    macs = sum(layer.macs for layer in report.audit.layers)
    memory_bytes = profile.memory_mb << 20
    share_percent = 100 * int8.total_bytes / memory_bytes
    share = f"{share_percent:.2f} %" if share_percent >= 0.01 else "less than 0.01 %"
    return Section(
        key="resources",
        title="Size, memory, arithmetic",
        place="cost",
        note=(
            "Memory is estimated: the model file and the activations alive at the worst moment of"
            f" one frame, without the runtime's own. {profile.title} has {profile.memory_mb:,} MB;"
            f" the int8 model takes {share} of it."
        ),
        data={
            "ram_estimate_bytes": {"float": floating.total_bytes, "int8": int8.total_bytes},
            "activations_bytes": {
                "float": floating.activations_bytes,
                "int8": int8.activations_bytes,
            },
            "kind": "estimated",
            "board_memory_bytes": memory_bytes,
            "macs": macs,
        },
        columns=("", "float", "int8", "int8 of float"),
        rows=(
            _row("model file", report.bytes_float, report.bytes_int8),
            _row("activations (estimated)", floating.activations_bytes, int8.activations_bytes),
            _row("memory (estimated)", floating.total_bytes, int8.total_bytes),
            ("multiply-accumulates a frame", f"{macs:,}", f"{macs:,}", "1.00"),
        ),
        lines=(
            f"memory    {_bytes(int8.total_bytes)} of {profile.memory_mb:,} MB, estimated",
            f"work      {macs:,} multiply-accumulates a frame",
        ),
    )


def _row(name: str, floating: int, int8: int) -> tuple[str, str, str, str]:
    return name, _bytes(floating), _bytes(int8), f"{int8 / max(floating, 1):.2f}"


def _bytes(value: int) -> str:
    if value < 10_000:
        return f"{value:,} B"
    return f"{value / 1e3:,.0f} kB" if value < 10_000_000 else f"{value / 1e6:,.1f} MB"
