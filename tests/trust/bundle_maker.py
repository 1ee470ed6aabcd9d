"""Small bundles with all the files a real one has; the weights are random bytes."""

from __future__ import annotations

from pathlib import Path

from edge_contract.codec import encode_json
from edge_contract.layout import BundleDir, write_bundle
from edge_contract.manifest import CODE, DOC, WEIGHT, WEIGHT_CONFIG, ConfigDetail
from edge_contract.model import Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec

TARGETS = ("raspberry-pi-4", "x86-64")


def make_bundle(
    path: Path, *, name: str = "digits", version: str = "1.0.0", weights: bytes = b"weights" * 99
) -> BundleDir:
    """Write a bundle of ``name`` ``version`` and open it."""
    return write_files(path, name=name, version=version, files=bundle_files(name, version, weights))


def bundle_files(name: str, version: str, weights: bytes) -> dict[str, tuple[str, bytes]]:
    tensor = TensorSpec(name="x", dtype="float32", shape=[None, 8])
    model = ModelManifest(
        name=name,
        version=version,
        task="classification",
        inputs=[tensor],
        outputs=[tensor],
        labels=["a", "b"],
        preprocess=PreprocessSpec(),
        variants=[
            Variant(
                target=target,
                runtime="onnxruntime",
                scheme="s8s8",
                file=f"variants/{target}.onnx",
                golden=f"golden/{target}.msgpack",
            )
            for target in TARGETS
        ],
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )
    files = {
        "model.json": (WEIGHT_CONFIG, encode_json(model)),
        "drift-reference.msgpack": (WEIGHT_CONFIG, b"reference"),
        "evidence.json": (DOC, b"{}"),
        "hooks/post-install": (CODE, b"#!/bin/sh\n"),
    }
    for target in TARGETS:
        files[f"variants/{target}.onnx"] = (WEIGHT, weights + target.encode())
        files[f"golden/{target}.msgpack"] = (WEIGHT_CONFIG, b"golden " + target.encode())
    return files


def write_files(
    path: Path, *, name: str, version: str, files: dict[str, tuple[str, bytes]]
) -> BundleDir:
    write_bundle(path, name=name, version=version, files=files, detail=ConfigDetail())
    return BundleDir(path)
