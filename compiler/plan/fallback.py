"""Leave in float what int8 ruins: the few layers that hurt most, within a small share of MACs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from compiler.plan.diagnose import LayerFidelity
from compiler.plan.draft import Range, draft_plan
from compiler.plan.search import Trial
from compiler.plan.structure import survey

SNR_GOOD_DB = 12.0
"""Plans with cleaner logits than this keep every layer in int8."""

GAIN_MIN_DB = 3.0
"""What a layer in float has to bring on the selection data."""

MACS_SHARE_MAX = 0.01
"""Of the multiply-accumulates may run in float: a model called int8 is to be one."""


def layers_to_free(
    ranking: Sequence[LayerFidelity], macs: Mapping[str, int], total: int
) -> list[frozenset[str]]:
    """Growing sets of layers to leave in float, the one that hurts most first.

    Layers that do not fit into the allowed share are passed over.

    Args:
        ranking: from ``diagnose``.
        macs: multiply-accumulates by layer, under the names of ``ranking``.
        total: of the whole source.
    """
    found: list[frozenset[str]] = []
    chosen: frozenset[str] = frozenset()
    spent = 0
    for layer in ranking:
        cost = macs.get(layer.node, total)
        if spent + cost <= MACS_SHARE_MAX * total:
            spent += cost
            chosen = chosen | {layer.node}
            found.append(chosen)
    return found


def in_float(trial: Trial, nodes: frozenset[str]) -> Trial:
    """The same plan with the layers ``nodes`` in float; its simulated figure stays as it was."""
    before = survey(trial.plan.model)
    after = survey(trial.plan.model, nodes)
    ranges: dict[str, Range] = {
        head: trial.ranges[before.shared[head]] for head in after.shared.values()
    }
    plan = draft_plan(
        trial.plan.model,
        after,
        ranges,
        trial.plan.activations,
        left_float=nodes,
        rounded=trial.plan.weights(),
    )
    recipe = f"{trial.recipe}+float-{len(nodes)}"
    return Trial(recipe, trial.snr_db, plan, trial.floating, ranges)
