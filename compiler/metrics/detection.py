"""Detection: how much mean average precision does int8 cost?

mAP is no mean over images, so there is no formula for its bound. Images are drawn anew with
replacement, both models on the same draws, and the 95 % quantile of the drops is the bound (a
paired percentile bootstrap: B. Efron and R. Tibshirani, "An Introduction to the Bootstrap", 1993,
chapter 13). Its limits are known: with few images it is too hopeful, and where the two models
differ on no image it gives an interval of width 0 whatever their number. So the bound is never put
below ``1 - 0.05^(1 / n)``, what ``n`` images without any difference leave possible when a differing
image may cost all that it brings.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from compiler.metrics.average_precision import Matches, Truth
from compiler.metrics.bounds import Bound
from compiler.metrics.measured import Figure, Measured, evidence_of, figure
from compiler.metrics.verdict import Words, judge_bound
from compiler.proof.gate import CONFIDENCE, Gate
from edge_runtime.detections import Detections

DRAWS = 1000
SEED = 0


def measure_boxes(
    floating: Sequence[Detections],
    int8: Sequence[Detections],
    truth: Sequence[Truth],
    *,
    max_drop_pp: float,
) -> Measured:
    """Compare both models' boxes, image by image, against the true ones.

    Args:
        floating, int8: the two models' detections.
        truth: the true boxes.
        max_drop_pp: the accepted drop of mAP in percentage points (mAP counted 0..100).
    """
    first, second = Matches(floating, truth), Matches(int8, truth)
    bound = drop_bound(first, second)
    gate = judge_drop(len(truth), bound, max_drop_pp)
    before, after = first.mean_precision(), second.mean_precision()
    differing = int((~first.same_images(second)).sum())
    evidence = evidence_of(
        "map",
        gate,
        max_drop_pp=max_drop_pp,
        drop_pp=figure(bound.seen),
        drop_upper_pp=figure(bound.upper),
        drop_lower_pp=figure(bound.lower),
        images_differing=differing,
        float={"accuracy": None, "map": figure(before)},
        int8={"accuracy": None, "map": figure(after)},
    )
    return Measured(
        metric="map",
        gate=gate,
        figures=(
            Figure("mAP 50:95", f"{100 * after:.2f}", f"float {100 * before:.2f}"),
            Figure("Images", f"{gate.n:,}", f"{differing:,} matched differently"),
        ),
        evidence=evidence,
    )


def drop_bound(first: Matches, second: Matches) -> Bound:
    """The drop of mAP from ``first`` to ``second`` in percentage points, with its bounds."""
    images = first.images
    seen = first.mean_precision() - second.mean_precision()
    random = np.random.Generator(np.random.PCG64(SEED))
    drops = []
    for _ in range(DRAWS):
        weights = np.bincount(random.integers(0, images, images), minlength=images)
        drop = first.mean_precision(weights) - second.mean_precision(weights)
        if math.isfinite(drop):  # a draw without true boxes says nothing
            drops.append(drop)
    least = -math.expm1(math.log(1 - CONFIDENCE) / images)
    low, high = np.quantile(drops, [1 - CONFIDENCE, CONFIDENCE]) if drops else (-1.0, 1.0)
    upper = max(float(high), seen + least)
    lower = min(float(low), seen - least)
    return Bound(100 * seen, 100 * lower, 100 * upper)


def judge_drop(images: int, bound: Bound, max_drop_pp: float) -> Gate:
    """The verdict on a drop of mAP in percentage points."""
    words = Words(
        seen=f"mAP dropped by {bound.seen:.2f} points on {images} images",
        what="drop of mAP",
        unit="points",
        value="{:.2f}",
        limit="{:g}",
        rows="images",
        likeness="images like these about {} would tell",
    )
    return judge_bound(images, bound, max_drop_pp, words)
