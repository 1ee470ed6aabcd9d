"""What the tensors around the layers that hurt most look like, and what int8 cuts off them.

Drawn from the statistics that calibration streamed; no sample is kept for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from compiler.calibrate.ranges import BINS, TensorStats
from compiler.plan.diagnose import LayerFidelity
from compiler.plan.plan import Grid, Plan
from compiler.report.section import Section

LAYERS_SHOWN = 4
BARS = 64


@dataclass(frozen=True)
class Histogram:
    """One activation tensor.

    low, high: extremes over all calibration samples.
    grid_low, grid_high: what int8 can hold; values outside are cut.
    clip_share: of the values, that lie outside, 0..1, as exactly as ``BINS`` bins tell.
    steps_used: of the 256 grid values, how many lie between ``low`` and ``high``.
    bars: counts in ``BARS`` even bins from ``low`` to ``high``.
    """

    layer: str
    role: str
    low: float
    high: float
    grid_low: float
    grid_high: float
    scale: float
    clip_share: float
    steps_used: int
    bars: tuple[int, ...]


def histograms(
    plan: Plan, ranking: Sequence[tuple[str, LayerFidelity]], stats: Mapping[str, TensorStats]
) -> list[Histogram]:
    """Inputs and output of the ``LAYERS_SHOWN`` layers that hurt most.

    Args:
        plan: what was chosen.
        ranking: (name in the source, figures), the worst first.
        stats: of the plan's float tensors; those without are passed over.
    """
    found = []
    for name, layer in ranking[:LAYERS_SHOWN]:
        planned = plan.layers[layer.node]
        for role, tensor in (*(("input", t) for t in planned.inputs), ("output", planned.output)):
            if tensor in stats and tensor in plan.grids and stats[tensor].high > stats[tensor].low:
                found.append(_histogram(name, role, stats[tensor], plan.grids[tensor]))
    return found


def _histogram(layer: str, role: str, stats: TensorStats, grid: Grid) -> Histogram:
    step = (stats.high - stats.low) / BINS
    centres = stats.low + step * (np.arange(BINS) + 0.5)
    # The grid's outer values stand for everything within half a step of them.
    inside = (centres >= grid.low - grid.scale / 2) & (centres <= grid.high + grid.scale / 2)
    total = int(stats.counts.sum())
    span = min(stats.high, grid.high) - max(stats.low, grid.low)
    return Histogram(
        layer=layer,
        role=role,
        low=stats.low,
        high=stats.high,
        grid_low=grid.low,
        grid_high=grid.high,
        scale=grid.scale,
        clip_share=float(stats.counts[~inside].sum()) / max(total, 1),
        steps_used=int(np.clip(round(span / grid.scale) + 1, 1, 256)),
        bars=tuple(int(n) for n in stats.counts.reshape(BARS, BINS // BARS).sum(axis=1)),
    )


def histograms_section(found: Sequence[Histogram]) -> Section:
    """As small charts, counts on a logarithmic scale."""
    return Section(
        key="ranges",
        title="Ranges of the layers that hurt most",
        place="layers",
        note=(
            "Values over all calibration samples, counts on a logarithmic scale. Shaded: what int8"
            " can hold; values outside are cut to its edge."
        ),
        data=[
            {
                "layer": one.layer,
                "tensor": one.role,
                "low": _figure(one.low),
                "high": _figure(one.high),
                "int8_low": _figure(one.grid_low),
                "int8_high": _figure(one.grid_high),
                "clip_share": _figure(one.clip_share),
                "steps_used": one.steps_used,
            }
            for one in found
        ],
        template="histograms.html",
        view={"charts": [(one, _geometry(one)) for one in found]},
    )


def _geometry(one: Histogram) -> dict[str, object]:
    """Places in a box 320 wide and 80 high."""
    low, high = min(one.low, one.grid_low), max(one.high, one.grid_high)
    span = (high - low) or 1.0

    def across(value: float) -> float:
        return 320 * (value - low) / span

    tallest = np.log1p(max(one.bars))
    width = across(one.high) - across(one.low)
    path = []
    for place, count in enumerate(one.bars):
        if count:
            x = across(one.low) + width * place / BARS
            up = max(1.0, 76 * float(np.log1p(count) / tallest))
            path.append(f"M{x:.1f} 80v-{up:.1f}h{width / BARS:.2f}v{up:.1f}z")
    return {
        "path": "".join(path),
        "grid_x": across(one.grid_low),
        "grid_width": across(one.grid_high) - across(one.grid_low),
        "zero_x": across(0.0) if low <= 0 <= high else None,
    }


def _figure(value: float) -> float:
    return float(f"{value:.6g}")
