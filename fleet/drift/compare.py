"""Compares a drift sketch, of one device or merged over many, with a reference on the same bins.

KS and PSI per feature, and one word each. The words do not claim more than the counts carry: PSI
of unchanged data is not 0 but grows with bins and falls with samples, so a verdict first asks
what chance alone would give. That question assumes independent samples; samples that resemble
one another vary more, and a verdict on few devices is then too sure.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from statistics import NormalDist

from edge_contract.errors import ContractError
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch, distance

MODERATE_PSI = 0.1
MAJOR_PSI = 0.25
"""The usual reading of PSI (Siddiqi, Credit Risk Scorecards, 2006)."""

CHANCE = 1e-3
"""How often chance alone may exceed what is called the chance level, per feature."""


class DriftVerdict(str, Enum):
    """What a comparison says, from best to worst."""

    STABLE = "stable"
    INSUFFICIENT = "insufficient data"
    MODERATE = "moderate shift"
    MAJOR = "major shift"


@dataclass(frozen=True)
class FeatureComparison:
    """One feature, sketch against reference.

    Attributes:
        name: of the feature.
        psi: population stability index, NaN counted as a bin.
        psi_by_chance: what PSI stays below in 999 of 1,000 comparisons of unchanged data.
        ks: Kolmogorov-Smirnov distance, NaN last; total variation for the predicted class.
        nan_share: share of NaN in the sketch, 0..1; 0 for an empty one.
        verdict: see ``DriftVerdict``.
    """

    name: str
    psi: float
    psi_by_chance: float
    ks: float
    nan_share: float
    verdict: DriftVerdict


@dataclass(frozen=True)
class Comparison:
    """All features of a sketch against a reference.

    Attributes:
        n: samples in the sketch.
        reference_n: rows of the reference.
        features: in the reference's order, the predicted class last.
        verdict: the worst of the features'.
    """

    n: int
    reference_n: int
    features: tuple[FeatureComparison, ...]
    verdict: DriftVerdict


def compare(reference: DriftReference, sketch: DriftSketch) -> Comparison:
    """Compares a sketch with the reference of its model line.

    Raises:
        ContractError: the sketch was counted on other edges or does not fit its own digest.
    """
    if sketch.edges_digest != reference.edges_digest:
        raise ContractError(
            f"drift sketch and reference have different edges: {sketch.edges_digest} and "
            f"{reference.edges_digest}",
            hint="compare with a reference of the same model line",
        )
    if sketch.bins != reference.bins:
        raise ContractError(
            f"drift sketch with edges {sketch.edges_digest}: expected bins {reference.bins}, "
            f"got {sketch.bins}; the sketch is damaged"
        )
    features = []
    for index, (name, seen) in enumerate(zip(reference.names, sketch.features, strict=True)):
        found = distance(
            (reference.counts[index], reference.nan_counts[index]),
            (seen.counts, seen.nan_count),
            ordered=index < len(reference.features),
        )
        chance = psi_by_chance(found.cells, reference.n, sketch.n)
        features.append(
            FeatureComparison(
                name=name,
                psi=found.psi,
                psi_by_chance=chance,
                ks=found.ks,
                nan_share=seen.nan_count / sketch.n if sketch.n else 0.0,
                verdict=_verdict(found.psi, chance),
            )
        )
    order = list(DriftVerdict)
    worst = max((feature.verdict for feature in features), key=order.index)
    return Comparison(sketch.n, reference.n, tuple(features), worst)


def psi_by_chance(cells: int, n: int, m: int) -> float:
    """The level that PSI of two samples of one law exceeds with probability ``CHANCE``.

    PSI over (1/n + 1/m) is then about chi-squared with one degree of freedom less than there are
    cells (Yurdakul, 2018); its quantile is Wilson and Hilferty's (1931). Infinite for an empty
    sample.
    """
    if not n or not m:
        return math.inf
    freedom = cells - 1
    if freedom == 0:
        return 0.0
    spread = 2 / (9 * freedom)
    z = NormalDist().inv_cdf(1 - CHANCE)
    return freedom * (1 - spread + z * math.sqrt(spread)) ** 3 * (1 / n + 1 / m)


def _verdict(value: float, chance: float) -> DriftVerdict:
    if value > chance and value >= MAJOR_PSI:
        return DriftVerdict.MAJOR
    if value > chance and value >= MODERATE_PSI:
        return DriftVerdict.MODERATE
    # Nothing seen: that means something only where a moderate shift would have stood out.
    return DriftVerdict.STABLE if chance < MODERATE_PSI else DriftVerdict.INSUFFICIENT
