"""Which layers would be worth leaving in float, and what that would gain."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from compiler.plan.diagnose import LayerFidelity
from compiler.report.names import short_name
from compiler.report.section import Section

GAIN_MIN_DB = 0.5
"""A layer in float that gains less is not worth the passes between float and int8."""

MACS_SHARE_MAX = 0.25
"""More in float is no int8 model any more; layers that do not fit into this are passed over."""

SUGGESTED_MAX = 5


@dataclass(frozen=True)
class Exclusion:
    """A layer to leave in float, after those suggested before it.

    gain_db: what the logits' signal to noise is predicted to gain from all suggested so far.
    macs_share: of the multiply-accumulates, that run in float then, all suggested so far.
    """

    name: str
    gain_db: float
    macs_share: float


def suggest_exclusions(
    ranking: Sequence[tuple[str, LayerFidelity]], macs: Mapping[str, int], total: int
) -> list[Exclusion]:
    """The layers whose noise is the largest part of the whole, while each gains enough and fits.

    Each layer's own noise power is ``10^(-alone_snr / 10)`` of the logits'. Errors of different
    layers are taken to be independent, so their powers add, and leaving a layer in float takes
    its part away. It is a prediction: errors that cancel one another make it too large.

    Args:
        ranking: (name in the source, figures), the worst first.
        macs: multiply-accumulates by the layers' names in the source.
        total: of the whole model.
    """
    noise = {name: 10 ** (-layer.alone_snr_db / 10) for name, layer in ranking}
    whole = rest = sum(noise.values())
    found: list[Exclusion] = []
    spent = 0
    for name, _ in ranking:
        left = rest - noise[name]
        cost = macs.get(name, total)
        if left <= 0 or 10 * math.log10(rest / left) < GAIN_MIN_DB or len(found) == SUGGESTED_MAX:
            break
        if spent + cost > MACS_SHARE_MAX * total:
            continue
        rest = left
        spent += cost
        found.append(Exclusion(name, 10 * math.log10(whole / rest), spent / max(total, 1)))
    return found


def exclusions_section(found: Sequence[Exclusion]) -> Section:
    """As a table; each row holds all layers down to its own."""
    return Section(
        key="suggested_exclusions",
        title="Worth leaving in float",
        place="layers",
        note=(
            "Predicted, not measured: signal to noise of the logits if the layers down to this row"
            " ran in float, were the errors of different layers independent. The build leaves"
            " layers in float by itself where int8 ruins the answers."
            if found
            else f"No layer stands out: none of up to {100 * MACS_SHARE_MAX:g} % of the MACs would"
            f" gain {GAIN_MIN_DB:g} dB in float."
        ),
        data=[
            {
                "name": one.name,
                "predicted_gain_db": round(one.gain_db, 2),
                "macs_share": round(one.macs_share, 6),
            }
            for one in found
        ],
        columns=("these layers and those above", "predicted gain", "MACs in float"),
        rows=tuple(
            (short_name(one.name), f"+{one.gain_db:.1f} dB", f"{100 * one.macs_share:.2f} %")
            for one in found
        ),
    )
