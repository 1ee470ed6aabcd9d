"""Which layer hurts: the error at every layer, and that of each layer alone in int8."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from onnx import ModelProto

from compiler.graph.feeds import given_to
from compiler.graph.layers import with_outputs
from compiler.plan.fidelity import cosine, logit_snr_db, tails_of
from compiler.plan.plan import Plan
from compiler.plan.simulate import Simulation, open_session, run_batches
from compiler.plan.structure import survey

Array = npt.NDArray[np.float32]

_MACS = 2e10
"""What finding out may cost in multiply-accumulates."""

_SAMPLES_MIN = 4


@dataclass(frozen=True)
class LayerFidelity:
    """One int8 layer.

    node: its name in ``Plan.model``.
    snr_db: power of its float output over that of the error there, with all layers in int8.
    alone_snr_db: of the logits, with this layer alone in int8: the lower, the more it hurts.
    cosine: between its float output and the one with all layers in int8, -1..1.
    """

    node: str
    snr_db: float
    alone_snr_db: float
    cosine: float


def diagnose(
    plan: Plan, floating: ModelProto, x: Array, batch: int, macs: int
) -> tuple[LayerFidelity, ...]:
    """Every int8 layer of ``plan``, the one that hurts most first.

    Args:
        plan: what was chosen.
        floating: its graph before biases were corrected.
        x: model inputs float32 ``[n, ...]``; as many are used as the budget allows.
        batch: samples a run.
        macs: multiply-accumulates for one sample.
    """
    runs = (len(plan.layers) + 2) * max(macs, 1)
    x = x[: int(max(_SAMPLES_MIN, min(32, _MACS // runs)))]
    structure = survey(floating, plan.left_float)
    tails = tails_of(floating)
    outputs = [structure.sites[node].output for node in plan.layers]
    wanted = list(dict.fromkeys([*outputs, *tails.tensors]))
    session = open_session(with_outputs(floating, wanted))
    values = run_batches(session, wanted, given_to(floating.graph), x, batch, {})
    reference = dict(zip(wanted, values, strict=True))
    whole = Simulation(plan, wanted, batch, rounded=True).run(x, plan.grids)
    int8 = dict(zip(wanted, whole, strict=True))
    found = []
    for (node, layer), output in zip(plan.layers.items(), outputs, strict=True):
        grids = {tensor: plan.grids[tensor] for tensor in layer.inputs}
        alone = replace(
            plan,
            model=floating,
            layers={node: replace(layer, absorbed=())},
            grids=grids,
            passing=frozenset(),
            absorbed=frozenset(),
        )
        found_alone = Simulation(alone, tails.tensors, batch).run(x, grids)
        found.append(
            LayerFidelity(
                node=node,
                snr_db=logit_snr_db(reference[output], int8[output], ""),
                alone_snr_db=tails.snr_db([reference[name] for name in tails.tensors], found_alone),
                cosine=cosine(reference[output], int8[output]),
            )
        )
    return tuple(sorted(found, key=lambda layer: layer.alone_snr_db))
