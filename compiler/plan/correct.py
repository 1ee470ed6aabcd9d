"""Bias correction: take out of each layer the mean error that rounding put in.

For each layer in the order of execution, the bias gives back the mean difference, channel by
channel, between what the float layer makes and what the int8 layer makes of inputs that are
quantised and already corrected (M. Nagel et al., 2019, section 4.2, with data). It helps where
few weights make a channel and can hurt elsewhere, so the search tries it and keeps it or not.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from compiler.graph.feeds import given_to
from compiler.graph.layers import with_outputs
from compiler.plan.plan import Plan
from compiler.plan.simulate import Simulation, open_session, run_batches
from compiler.plan.structure import Structure

Array = npt.NDArray[np.float32]


def corrected_biases(plan: Plan, structure: Structure, x: Array, batch: int) -> dict[str, Array]:
    """Biases float32 ``[out]`` by layer, for the layers that have one; none where none has.

    Args:
        plan: the plan to correct.
        structure: that of its model.
        x: model inputs float32 ``[n, ...]``.
        batch: samples a run.
    """
    given = given_to(plan.model.graph)
    layers = [layer for layer in plan.layers.values() if layer.bias_float is not None]
    if not layers:
        return {}
    made = [structure.sites[layer.node].made for layer in layers]
    session = open_session(with_outputs(plan.model, made))
    # Batch by batch: memory would not hold every layer's outputs for all samples.
    totals: list[npt.NDArray[np.float64] | float] = [0.0] * len(made)
    for start in range(0, len(x), batch):
        chunk = x[start : start + batch]
        for place, values in enumerate(run_batches(session, made, given, chunk, batch, {})):
            totals[place] = totals[place] + len(chunk) * _means(values)
    wanted = [total / len(x) for total in totals]
    biases: dict[str, Array] = {}
    simulation = Simulation(plan, [layer.output for layer in layers], batch)
    for layer, target in zip(layers, wanted, strict=True):
        (values,) = simulation.run(x, plan.grids, biases, only=layer.output)
        assert layer.bias_float is not None
        error = target - _means(values)
        biases[layer.node] = (layer.bias_float + error).astype(np.float32)
    return biases


def _means(values: Array) -> npt.NDArray[np.float64]:
    """Means ``[channels]`` of ``[n, channels, ...]``."""
    axes = tuple(axis for axis in range(values.ndim) if axis != 1)
    return np.asarray(values.mean(axis=axes, dtype=np.float64))
