"""Fidelity alone: how near are int8's outputs to the float model's, without any labels?

A sample's figure is the cosine between the two models' values of one output, and of several
outputs the worst. An output of a single value has no direction: there an error that is ``e`` of
that output's root mean square counts as the cosine ``1 - e^2 / 2`` that it would leave at right
angles to a vector. The gate asks whether the mean over samples is at least the limit, by a
one-sided 95 % bound (Student's t).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from compiler.metrics.bounds import Values, mean_bound
from compiler.metrics.measured import Figure, Measured, evidence_of, figure
from compiler.metrics.verdict import Words, judge_bound
from compiler.plan.fidelity import logit_snr_db
from compiler.proof.gate import Gate
from edge_runtime.classes import ClassScores
from edge_runtime.preprocess import FloatArray


@dataclass(frozen=True)
class OutputFidelity:
    """One output over all samples.

    cosine: the mean. snr_db: power of the float values over that of the error, at most 200.
    """

    name: str
    cosine: float
    snr_db: float


def compare_outputs(
    floating: FloatArray, int8: FloatArray, names: Sequence[str], sizes: Sequence[int]
) -> tuple[tuple[OutputFidelity, ...], Values]:
    """Every output of two models' rows ``[n, values]``, and each sample's worst cosine ``[n]``."""
    found = []
    worst = np.ones(len(floating))
    for name, size, end in zip(names, sizes, np.cumsum(sizes), strict=True):
        part = slice(end - size, end)
        cosines = cosines_of(floating[:, part], int8[:, part])
        snr = logit_snr_db(floating[:, part], int8[:, part], "")
        found.append(OutputFidelity(name, float(cosines.mean()), snr))
        worst = np.minimum(worst, cosines)
    return tuple(found), worst


def cosines_of(reference: FloatArray, values: FloatArray) -> Values:
    """Row by row ``[n]``; 1 where both rows are 0, 0 where one is."""
    first, second = reference.astype(np.float64), values.astype(np.float64)
    if first.shape[1] == 1:
        power = float(np.square(first).mean())
        error = np.square(second - first)[:, 0]
        return np.where(error == 0, 1.0, 1 - np.minimum(error / max(2 * power, 1e-300), 2.0))
    norms = np.linalg.norm(first, axis=1) * np.linalg.norm(second, axis=1)
    product = (first * second).sum(axis=1)
    equal = (first == second).all(axis=1)
    inside = np.clip(product / np.where(norms > 0, norms, 1.0), -1.0, 1.0)
    return np.where(equal, 1.0, np.where(norms > 0, inside, 0.0))


def measure_fidelity(
    floating: FloatArray,
    int8: FloatArray,
    names: Sequence[str],
    sizes: Sequence[int],
    *,
    min_cosine: float,
    classes: ClassScores | None,
) -> Measured:
    """Compare rows ``[n, values]``, all outputs one after another.

    Args:
        floating, int8: the two models' answers.
        names, sizes: of the outputs.
        min_cosine: the least accepted mean.
        classes: reads scores of classes, where the model gives such.
    """
    outputs, cosines = compare_outputs(floating, int8, names, sizes)
    gate = judge_cosines(cosines, min_cosine)
    agreement = None
    if classes is not None:
        same = classes.of(floating).argmax(axis=1) == classes.of(int8).argmax(axis=1)
        agreement = figure(same.mean())
    snr = min(one.snr_db for one in outputs)
    evidence = evidence_of(
        "fidelity",
        gate,
        agreement=agreement,
        min_cosine=min_cosine,
        cosine=figure(gate.interval.seen),
        cosine_lower=figure(gate.interval.lower) if np.isfinite(gate.interval.lower) else None,
        snr_db=figure(snr),
    )
    figures = [
        Figure("Cosine to float", f"{gate.interval.seen:.5f}", f"{gate.n:,} samples, no labels"),
        Figure("Signal to noise", f"{snr:.1f} dB", "the worst output"),
    ]
    if agreement is not None:
        figures.append(Figure("Same class as float", f"{agreement:.2%}", f"{gate.n:,} samples"))
    return Measured(metric="fidelity", gate=gate, figures=tuple(figures), evidence=evidence)


def judge_cosines(cosines: Values, limit: float) -> Gate:
    """The verdict on each sample's cosine ``[n]``."""
    n = len(cosines)
    bound = mean_bound(cosines)
    words = Words(
        seen=f"the mean cosine between float and int8 outputs is {bound.seen:.5f} on {n} samples",
        what="mean cosine",
        unit="",
        value="{:.5f}",
        limit="{:g}",
    )
    return judge_bound(n, bound, limit, words, at_least=True)
