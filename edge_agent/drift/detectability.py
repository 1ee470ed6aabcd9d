"""What a detector can and cannot find, said before it fails to.

The confidence box around a small reference is wide, and a change that stays inside it is never
found, however long it lasts. This computes how long a change of a given size would take.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from edge_agent.drift.detector import DriftDetector

ENOUGH_ROWS = 1000
"""References of fewer rows are called small: one standard deviation takes hundreds of samples
or is never found."""


def expected_delay_samples(detector: DriftDetector, sigma: float) -> float:
    """About how many samples a shift of one numeric feature takes to alarm.

    The shift is ``sigma`` standard deviations, up, of a feature with a normal law and the
    reference's masses; the delay is ln(A / stake) over the mean log factor of the best bet
    (Wald's first-order approximation), and the figure is the median over the features.

    Returns:
        samples, or infinity when no bet gains by the shift, so that it is never found.
    """
    reference, bets = detector.reference, detector.bets
    delays = []
    for index in range(len(reference.features)):
        mass = _shifted(reference.counts[index], sigma)
        mine = bets.feature == index
        growth = np.log(bets.factors[mine][:, : len(mass)]) @ mass
        needed = np.log(detector.threshold / bets.share[mine])
        gaining = growth > 0
        delays.append(float((needed[gaining] / growth[gaining]).min(initial=math.inf)))
    delays.sort()
    return delays[len(delays) // 2] if delays else math.inf


def small_reference_warning(detector: DriftDetector) -> str:
    """One sentence on what a small reference cannot find; empty from ``ENOUGH_ROWS`` rows on."""
    n = detector.reference.n
    if n >= ENOUGH_ROWS:
        return ""
    sizes = ", ".join(
        f"{sigma:g} standard deviations {_in_words(expected_delay_samples(detector, sigma))}"
        for sigma in (1.0, 2.0, 3.0)
    )
    return (
        f"the drift reference has only {n} rows, so small changes cannot be told from chance. "
        f"A lasting shift of one feature by {sizes}. "
        f"Use {ENOUGH_ROWS} rows or more; 5,000 are good."
    )


def _shifted(counts: tuple[int, ...], sigma: float) -> npt.NDArray[np.float64]:
    """Masses of the value bins after a normal law moves up by ``sigma``."""
    from statistics import NormalDist  # asked for by small references only

    normal = NormalDist()
    total = sum(counts) or 1
    below = np.cumsum(counts)[:-1] / total
    moved = [normal.cdf(normal.inv_cdf(p) - sigma) if 0 < p < 1 else p for p in below.tolist()]
    return np.diff([0.0, *moved, 1.0])


def _in_words(delay_samples: float) -> str:
    if math.isinf(delay_samples):
        return "would never be found"
    return f"takes about {math.ceil(delay_samples):,} samples"
