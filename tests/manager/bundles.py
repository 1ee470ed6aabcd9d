"""Small bundles that are well-formed in everything but that no runtime could run their model."""

from __future__ import annotations

from pathlib import Path

from edge_contract.layout import write_bundle
from edge_contract.manifest import ConfigDetail
from edge_contract.reference import DriftReference
from tests.small_bundle import small_files

HARDWARE = "generic-x86-64"
REFERENCE = DriftReference(
    features=("mean",),
    edges=((0.25, 0.5, 0.75),),
    class_ids=(0, 1),
    counts=((250, 250, 250, 250), (500, 500, 0)),
    nan_counts=(0, 0),
    n=1000,
)


def make_bundle(
    directory: Path,
    version: str,
    *,
    line: str = "digits",
    weights: bytes = b"",
    targets: tuple[str, ...] = (HARDWARE,),
) -> Path:
    """Write ``directory/bundle-{version}`` and return it."""
    files = small_files(
        line,
        version,
        {target: weights or f"{version} {target}".encode() for target in targets},
        reference=REFERENCE.encode(),
    )
    path = directory / f"bundle-{line}-{version}"
    write_bundle(path, name=line, version=version, files=files, detail=ConfigDetail())
    return path
