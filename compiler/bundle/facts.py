"""What a bundle says of itself: files, variants, lineage and what was proven of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec

from compiler.bundle.outdir import BUNDLE
from compiler.graph.describe import facts_in
from compiler.graph.facts import ModelFacts
from edge_contract.codec import decode_json
from edge_contract.layout import BundleDir, unpack_tar
from edge_contract.model import (
    EVIDENCE_FILE,
    MODEL_FILE,
    Lineage,
    ModelManifest,
    TensorSpec,
    decode_model_manifest,
)


class FileFacts(msgspec.Struct, frozen=True):
    """One file of a bundle."""

    path: str
    size_bytes: int
    digest: str


class VariantFacts(msgspec.Struct, frozen=True):
    """One target's variant, its model, and what the build proved of it (``evidence.json``)."""

    target: str
    runtime: str
    scheme: str
    file: str
    model: ModelFacts
    evidence: dict[str, Any]


class BundleFacts(msgspec.Struct, frozen=True):
    """A bundle, checked against its digests."""

    digest: str
    name: str
    version: str
    task: str
    labels: list[str]
    inputs: list[TensorSpec]
    outputs: list[TensorSpec]
    size_bytes: int
    files: list[FileFacts]
    variants: list[VariantFacts]
    lineage: Lineage


def bundle_path(path: Path) -> Path | None:
    """Where the bundle is that ``path`` names: itself, or ``bundle/`` in a build's directory.

    ``None`` where there is none; a tar is one only if it is not a file of another kind.
    """
    for place in (path, path / BUNDLE):
        if (place / "oci-layout").is_file():
            return place
    if path.is_file():
        with path.open("rb") as file:
            head = file.read(512)
        return path if head[257:262] == b"ustar" else None
    return None


@contextmanager
def opened_bundle(path: Path) -> Iterator[BundleDir]:
    """The bundle in a directory or a tar, every blob of it checked.

    Raises:
        ContractError: no bundle.
        TrustError: damaged or tampered with.
    """
    if path.is_file():
        with TemporaryDirectory(prefix="edge-compile-") as scratch:
            unpacked = Path(scratch) / BUNDLE
            unpack_tar(path, unpacked)
            with opened_bundle(unpacked) as bundle:
                yield bundle
        return
    opened = BundleDir(path)
    opened.verify()
    yield opened


def read_manifest(bundle: BundleDir) -> ModelManifest:
    """Its ``model.json``."""
    return decode_model_manifest(bundle.read_file(MODEL_FILE), where=MODEL_FILE)


def read_evidence(bundle: BundleDir) -> dict[str, dict[str, Any]]:
    """Its ``evidence.json``, by target; empty where the bundle carries none."""
    if EVIDENCE_FILE not in {layer.path for layer in bundle.manifest.layers}:
        return {}
    found = decode_json(bundle.read_file(EVIDENCE_FILE), Evidence, what=EVIDENCE_FILE)
    return found.targets


class Evidence(msgspec.Struct, frozen=True):
    """What is read of ``evidence.json``."""

    targets: dict[str, dict[str, Any]] = {}


def facts_of_bundle(bundle: BundleDir) -> BundleFacts:
    """Everything that the bundle says.

    Raises:
        ContractError: a document in it is malformed.
        SourceError: one of its models is neither ONNX nor .tflite.
    """
    manifest = read_manifest(bundle)
    evidence = read_evidence(bundle)
    models: dict[str, ModelFacts] = {}
    for variant in manifest.variants:
        if variant.file not in models:
            layer = bundle.manifest.layer(variant.file)
            data = bundle.read_file(variant.file)
            models[variant.file] = facts_in(variant.file, data, layer.digest, layer.size)
    return BundleFacts(
        digest=bundle.digest,
        name=manifest.name,
        version=manifest.version,
        task=manifest.task,
        labels=manifest.labels,
        inputs=manifest.inputs,
        outputs=manifest.outputs,
        size_bytes=sum(d.size for d in bundle.descriptors()),
        files=[FileFacts(f.path, f.size, f.digest) for f in bundle.manifest.layers],
        variants=[
            VariantFacts(
                target=variant.target,
                runtime=variant.runtime,
                scheme=variant.scheme,
                file=variant.file,
                model=models[variant.file],
                evidence=evidence.get(variant.target, {}),
            )
            for variant in manifest.variants
        ],
        lineage=manifest.lineage,
    )
