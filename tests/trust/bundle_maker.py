"""Small bundles with all the files a real one has; the weights are random bytes."""

from __future__ import annotations

from pathlib import Path

from edge_contract.layout import BundleDir, write_bundle
from edge_contract.manifest import CODE, ConfigDetail
from tests.small_bundle import small_files

TARGETS = ("raspberry-pi-4", "x86-64")


def make_bundle(
    path: Path, *, name: str = "digits", version: str = "1.0.0", weights: bytes = b"weights" * 99
) -> BundleDir:
    """Write a bundle of ``name`` ``version`` and open it."""
    return write_files(path, name=name, version=version, files=bundle_files(name, version, weights))


def bundle_files(name: str, version: str, weights: bytes) -> dict[str, tuple[str, bytes]]:
    files = small_files(name, version, {target: weights + target.encode() for target in TARGETS})
    files["hooks/post-install"] = (CODE, b"#!/bin/sh\n")
    return files


def write_files(
    path: Path, *, name: str, version: str, files: dict[str, tuple[str, bytes]]
) -> BundleDir:
    write_bundle(path, name=name, version=version, files=files, detail=ConfigDetail())
    return BundleDir(path)
