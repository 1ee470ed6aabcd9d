"""Small bundles with a drift reference, and drift windows that fit it."""

from __future__ import annotations

import math
from pathlib import Path

from edge_contract.layout import write_bundle
from edge_contract.manifest import ConfigDetail
from edge_contract.reference import DriftReference
from edge_contract.sketch import DriftSketch, FeatureSketch, pack_range
from tests.small_bundle import small_files

LINE = "digits"
HARDWARE = ("raspberry-pi-4", "jetson-orin-nano")
FEATURES = (
    "brightness",
    "contrast",
    "sharpness",
    "noise",
    "high_frequency",
    "confidence",
    "entropy",
    "margin",
)
_BINS = 16
_N = 4000
REFERENCE = DriftReference(
    features=FEATURES,
    edges=tuple(tuple(round(0.06 * (bin + 1), 2) for bin in range(_BINS - 1)) for _ in FEATURES),
    class_ids=tuple(range(10)),
    counts=(*((_N // _BINS,) * _BINS for _ in FEATURES), (*(_N // 10,) * 10, 0)),
    nan_counts=(0,) * (len(FEATURES) + 1),
    n=_N,
)


def sketch(index: int, n: int, *, dark: bool) -> DriftSketch:
    """A window of ``n`` samples; a dark one has its low bins full."""
    found = []
    for feature in range(len(FEATURES)):
        counts = [0] * _BINS
        for sample in range(n):
            place = (sample * 7 + index + feature) % _BINS
            if dark and feature in (0, 1):
                place = place // 4
            elif dark and feature in (5, 7):
                place = max(0, place - 2)
            elif (index + feature) % 9 == 0 and sample % 5 == 0:
                place = min(_BINS - 1, place + 3)
            counts[place] += 1
        found.append(FeatureSketch(tuple(counts), 0, pack_range(0.0, 1.0)))
    classes = [n // 10] * 10
    classes[0] += n - sum(classes)
    nothing = pack_range(math.inf, -math.inf)
    found.append(FeatureSketch((*classes, 0), 0, nothing))
    return DriftSketch(edges_digest=REFERENCE.edges_digest, n=n, features=tuple(found))


def make_bundle(directory: Path, version: str) -> Path:
    """A well-formed bundle of ``LINE`` for all of ``HARDWARE`` that no runtime could run."""
    files = small_files(
        LINE,
        version,
        {target: f"{version} {target}".encode() * 9000 for target in HARDWARE},
        labels=[str(number) for number in range(10)],
        golden=b"golden" * 700,
        reference=REFERENCE.encode(),
    )
    path = directory / f"bundle-{version}"
    write_bundle(path, name=LINE, version=version, files=files, detail=ConfigDetail())
    return path
