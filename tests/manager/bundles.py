"""Small bundles that are well-formed in everything but that no runtime could run their model."""

from __future__ import annotations

from pathlib import Path

from edge_contract.codec import encode_json
from edge_contract.layout import write_bundle
from edge_contract.manifest import DOC, WEIGHT, WEIGHT_CONFIG, ConfigDetail
from edge_contract.model import DRIFT_REFERENCE_FILE, Lineage, ModelManifest, TensorSpec, Variant
from edge_contract.preprocess import PreprocessSpec
from edge_contract.reference import DriftReference

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
    tensor = TensorSpec(name="x", dtype="float32", shape=[None, 1, 8, 8])
    model = ModelManifest(
        name=line,
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
                scheme="u8s8",
                file=f"variants/{target}.onnx",
                golden=f"golden/{target}.msgpack",
            )
            for target in targets
        ],
        lineage=Lineage(
            source_digest="", calibration_digest="", test_digest="", tools={}, options={}
        ),
    )
    files = {
        "model.json": (WEIGHT_CONFIG, encode_json(model)),
        DRIFT_REFERENCE_FILE: (WEIGHT_CONFIG, REFERENCE.encode()),
        "evidence.json": (DOC, b"{}"),
    }
    for target in targets:
        files[f"variants/{target}.onnx"] = (WEIGHT, weights or f"{version} {target}".encode())
        files[f"golden/{target}.msgpack"] = (WEIGHT_CONFIG, b"golden")
    path = directory / f"bundle-{line}-{version}"
    write_bundle(path, name=line, version=version, files=files, detail=ConfigDetail())
    return path
